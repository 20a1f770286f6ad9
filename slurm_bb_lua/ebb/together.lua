--- Rules over all directives of one script.
--
-- What is meant by several directives with one name:
--   create + use            a buffer for this job: made before it, ended (and saved) after it
--   create + use + destroy  the same
--   use + destroy           use it, then destroy it when the job has ended
--   use twice               the same as once (a wrapper's --bb and the script may both ask)
--   create + destroy        refused: nothing could ever use it; most likely the `use` was forgotten
--   the same verb twice     refused otherwise

local grammar = require("ebb.grammar")
local values = require("ebb.values")

local together = {}

-- Groups by name: {name -> {verb -> directive}}. Also returns the list without repeated uses.
local function by_name(list, complain)
    local groups, kept = {}, {}
    for _, directive in ipairs(list) do
        local name, verb = directive.args.Name, directive.verb
        groups[name] = groups[name] or {}
        local first = groups[name][verb]
        if not first then
            groups[name][verb] = directive
            kept[#kept + 1] = directive
        elseif verb ~= "use_persistent" then
            complain(directive, "Name=%s: %s of this name stands in line %d already; once is accepted",
                name, verb, first.line)
        end
    end
    return groups, kept
end

local function check_forgotten_use(list, groups, complain)
    for _, directive in ipairs(list) do
        local name = directive.args.Name
        local group = groups[name]
        if directive == group.destroy_persistent and group.create_persistent and not group.use_persistent then
            complain(directive, "Name=%s: created in line %d and destroyed without a use; "
                .. "add '%s use_persistent Name=%s' to use it in this job, or destroy it in another job",
                name, group.create_persistent.line, directive.type, name)
        end
    end
end

-- The entries of created buffers' keys that carry `mark`: a list of {directive, key, value}, one for each
-- place that a value names.
local function marked(list, mark)
    local found = {}
    for _, directive in ipairs(list) do
        for _, entry in ipairs(grammar.created(directive)) do
            if entry[mark] and directive.args[entry.key] then
                for _, place in ipairs(values.places(directive.args[entry.key], entry)) do
                    found[#found + 1] = { directive = directive, key = entry.key, value = place }
                end
            end
        end
    end
    return found
end

-- Two values that must differ. One error for each directive, whatever their number: slurmctld waits for this.
local function check_same(found, complain, text)
    local first = {}
    for _, one in ipairs(found) do
        local other = first[one.value]
        if other then
            complain(one.directive, "%s=%s: " .. text, one.key, one.value, other.key, other.value,
                other.directive.line)
        end
        first[one.value] = other or one
    end
end

-- The mount above `path` in {path -> mount}, or nil.
local function mount_above(path, mounts)
    local slash = path:find("/", 2, true)
    while slash do
        local above = mounts[path:sub(1, slash - 1)]
        if above then
            return above
        end
        slash = path:find("/", slash + 1, true)
    end
end

-- Two mountpoints must lie apart. As above, at most one error for each.
local function check_mounts(found, complain)
    local mounts = {}
    local text = "the same as, above or below %s=%s of line %d; mountpoints of one job must lie apart"
    check_same(found, complain, text)
    for _, one in ipairs(found) do
        mounts[one.value] = mounts[one.value] or one
    end
    for _, one in ipairs(found) do
        local other = mount_above(one.value, mounts)
        if other then
            if other.directive.line > one.directive.line then
                one, other = other, one
            end
            complain(one.directive, "%s=%s: " .. text, one.key, one.value, other.key, other.value,
                other.directive.line)
        end
    end
end

--- Adds an error for each broken rule. Returns the list of directives to carry out.
function together.check(list, errors)
    local function complain(directive, text, ...)
        errors[#errors + 1] = {
            line = directive.line,
            message = directive.type .. " " .. directive.verb .. ": " .. string.format(text, ...),
        }
    end
    local groups, kept = by_name(list, complain)
    check_forgotten_use(kept, groups, complain)
    check_mounts(marked(kept, "mount"), complain)
    check_same(marked(kept, "saved"), complain,
        "the same as %s=%s of line %d; two buffers cannot be saved to one place")
    return kept
end

return together
