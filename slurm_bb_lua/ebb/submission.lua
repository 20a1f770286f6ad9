--- What happens to a script: at submission inside slurmctld, and again when the job is set up.

local directives = require("ebb.directives")

local submission = {}

-- A text that is read as a file is.
local Text = {}
Text.__index = Text

function Text:read(bytes)
    local from = self.at
    self.at = from + bytes
    return from <= #self.text and self.text:sub(from, self.at - 1) or nil
end

function Text.close() end

-- From 24.11 on the tasks of a job array but the last have no script of their own when they are set up: Slurm's own
-- copy of the directives stands for it. On 26.05 they have no folder either, in which Slurm looks for what `paths` has
-- written; it starts the job without its buffers if there is nothing.
local function open(script, merged)
    local file, why = io.open(script, "rb")
    if file then
        return file
    elseif merged and merged ~= "" then
        require("ebb.files").make_folder_of(script)
        return setmetatable({ text = "#!\n" .. merged .. "\n", at = 1 }, Text)
    end
    return nil, "cannot read the job script: " .. why
end

local function read(script, merged)
    local file, why = open(script, merged)
    if not file then
        return nil, why
    end
    local list, errors = directives.read(file)
    file:close()
    return list, errors
end

--- The directives of a script.
-- @param known what can ever fit (see ebb.capacity), or nil
-- @param merged the directives as Slurm keeps them, or nil: taken where there is no script
-- @return the list, or nil and all that is wrong, a line each
function submission.directives(script, known, merged)
    local list, errors = read(script, merged)
    if not list then
        return nil, errors
    end
    if #errors == 0 and known then
        errors = require("ebb.capacity").check(list, known)
    end
    if #errors > 0 then
        return nil, directives.message(errors)
    end
    return list
end

--- As above, and checked against what this system has.
function submission.check(script)
    local capacity = require("ebb.capacity")
    return submission.directives(script, capacity.parse(require("ebb.files").read("capacity")))
end

return submission
