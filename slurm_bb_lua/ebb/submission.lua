--- What happens to a script: at submission inside slurmctld, and again when the job is set up.

local header = require("ebb.header")

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

-- Most scripts have no directive: for them no more Lua is read than finds that out.
local function read(script, merged)
    local file, why = open(script, merged)
    if not file then
        return nil, why
    end
    local entries, errors = header.read(file)
    file:close()
    return #entries == 0 and entries or require("ebb.directives").check(entries, errors), errors
end

--- The directives of a script.
-- @param merged the directives as Slurm keeps them, or nil: taken where there is no script
-- @param check nil, or a function that gives what else is wrong with a list that is right in itself
-- @return the list, or nil and all that is wrong, a line each
function submission.directives(script, merged, check)
    local list, errors = read(script, merged)
    if not list then
        return nil, errors
    end
    if #errors == 0 and #list > 0 and check then
        errors = check(list)
    end
    if #errors > 0 then
        return nil, require("ebb.mistakes").message(errors)
    end
    return list
end

--- As above, and checked against what this system has.
function submission.check(script)
    return submission.directives(script, nil, function(list)
        local capacity = require("ebb.capacity")
        return capacity.check(list, capacity.parse(require("ebb.files").read("capacity")))
    end)
end

return submission
