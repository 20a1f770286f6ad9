--- What this system has: refuses at submission what would wait, or be held, for ever.
--
-- The file (docs/interfaces.md) is kept ready by the orchestrator. If it is missing or of another version nothing is
-- known, and the orchestrator decides when the job is set up.

local directives = require("ebb.directives")
local grammar = require("ebb.grammar")
local values = require("ebb.values")

local capacity = {}

local function fields(text)
    local found = {}
    for key, value in text:gmatch("(%w+)=(%S+)") do
        found[key] = tonumber(value) or value
    end
    return found
end

--- @param text the content of the capacity file, or nil
-- @return {total = {...}, offers = {...}, flavors = {...}}, or nil if nothing is known
function capacity.parse(text)
    if not text or not text:find("^Version=1%s") then
        return nil
    end
    local known = { total = {}, offers = {}, flavors = {} }
    for line in text:gmatch("[^\n]+") do
        if line:find("^Total ") then
            known.total = fields(line)
        elseif line:find("^Offers ") then
            known.offers = fields(line)
        elseif line:find("^Flavor ") then
            local flavor = fields(line)
            flavor.Name = line:match(" Name=(%S+)") -- a name of digits stays text
            if flavor.Name then
                table.insert(known.flavors, flavor)
            end
        end
    end
    return known
end

local function find_flavor(known, name)
    for _, flavor in ipairs(known.flavors) do
        if flavor.Name == name then
            return flavor
        end
    end
end

local function check_size(entry, bytes, known)
    local most = tonumber(known.total[entry.fits])
    if most and tonumber(bytes) > most then
        return "can never fit: the largest volume group of this system has "
            .. require("ebb.mistakes").size(most)
    end
end

local function check_nodes(args, count, known)
    local flavor = find_flavor(known, args.Flavor)
    local most = tonumber(flavor and flavor.Datanodes or known.total.Datanodes)
    if flavor and most and tonumber(count) > most then
        return string.format("can never fit: this system has %.0f datanode%s that can hold the flavor %s",
            most, most == 1 and "" or "s", args.Flavor)
    end
end

local function is_allowed(path, prefixes)
    for prefix in prefixes:gmatch("[^,]+") do
        if values.is_below(path, prefix) then
            return true
        end
    end
    return false
end

local function check_mountpoints(places, known)
    local prefixes = known.offers.MountPrefixes
    for _, path in ipairs(places) do
        if prefixes and not is_allowed(path, prefixes) then
            return "must lie below one of " .. prefixes:gsub(",", ", ")
        end
    end
end

-- What is wrong with one key's value, or nil.
local function check_entry(entry, args, known)
    local value = args[entry.key]
    if value and entry.mount then
        return check_mountpoints(values.places(value, entry), known)
    elseif value and entry.hestia and value:find("^HESTIA@") and known.offers.ObjectStore == "no" then
        return "this system has no object store; give the path of a file"
    end
    if value and entry.fits then
        return check_size(entry, value, known)
    elseif value and entry.flavor and not find_flavor(known, value) then
        return "unknown flavor; accepted: " .. require("ebb.mistakes").flavors(known.flavors)
    elseif value and entry.nodes then
        return check_nodes(args, value, known)
    end
end

-- What is wrong with a directive's type, or nil.
local function check_type(directive, known)
    local types = known.offers.Types
    local served = not types or ("," .. types .. ","):find("," .. directive.type .. ",", 1, true)
    if not served and directive.verb == "create_persistent" then
        return "buffers of this type are not served on this system; served: " .. types:gsub(",", ", ")
    end
end

--- @param list directives as ebb.directives gives them
-- @param known as capacity.parse gives it
-- @return a list of {line, message}; empty if all can fit
function capacity.check(list, known)
    local errors = {}
    for _, directive in ipairs(known and list or {}) do
        local unserved = check_type(directive, known)
        if unserved then
            errors[#errors + 1] = {
                line = directive.line,
                message = string.format("%s %s: %s", directive.type, directive.verb, unserved),
            }
        end
        for _, entry in ipairs(grammar.created(directive)) do
            local why = check_entry(entry, directive.args, known)
            if why then
                errors[#errors + 1] = {
                    line = directive.line,
                    message = string.format("%s %s: %s=%s: %s", directive.type, directive.verb, entry.key,
                        directives.as_written(directive, entry.key), why),
                }
            end
        end
    end
    return errors
end

return capacity
