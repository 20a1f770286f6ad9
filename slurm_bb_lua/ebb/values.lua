--- The checks of single values, one a kind of ebb.grammar.
--
-- Each takes the text as written and the key's entry, and returns the normalised text, or nil and what is wrong with it
-- (and what would be accepted). All are pure.

local grammar = require("ebb.grammar")
local units = require("ebb.units")

local values = {}

local LONGEST_PATH = 4095 -- PATH_MAX without the final NUL
local LONGEST_NAME = 64

function values.name(text)
    if #text > LONGEST_NAME or not text:find("^[%w][%w._-]*$") then
        return nil, "not a name; accepted: at most " .. LONGEST_NAME
            .. " letters, digits and . _ - of which the first is a letter or digit"
    end
    return text
end

function values.size(text, entry)
    local bytes, why = units.parse(text)
    if not bytes then
        return nil, why
    end
    if entry.min and bytes < entry.min then
        return nil, "too small; the least is " .. require("ebb.mistakes").size(entry.min)
    end
    if entry.multiple then
        if bytes == 0 or bytes % entry.multiple ~= 0 then
            return nil, "accepted: a multiple of " .. require("ebb.mistakes").size(entry.multiple)
        end
        return units.digits(bytes)
    end
    return units.digits(units.round_up(bytes))
end

function values.count(text, entry)
    local number = text:find("^%d+$") and tonumber(text)
    if not number or number < entry.min or number > entry.max then
        return nil, string.format("accepted: a whole number from %.0f to %.0f", entry.min, entry.max)
    end
    return string.format("%.0f", number)
end

function values.enum(text, entry)
    for _, value in ipairs(entry.values) do
        if value == text:lower() then
            return value
        end
    end
    return nil, "accepted: " .. table.concat(entry.values, ", ") .. (entry.why and " (" .. entry.why .. ")" or "")
end

--- An absolute path without `.`, doubled and final slashes. `..` is refused rather than resolved: behind a symbolic
-- link it does not lead where the text says.
function values.path(text)
    if text:sub(1, 1) ~= "/" then
        return nil, "not an absolute path; accepted: a path that begins with /, written in full"
    end
    if text:find("[$`]") then
        return nil, "variables are not expanded in #BB_LUA lines; write the path in full"
    end
    if text:find("%c") then
        return nil, "control characters are not accepted in a path"
    end
    if #text > LONGEST_PATH then
        return nil, "longer than " .. LONGEST_PATH .. " bytes"
    end
    local parts = {}
    for part in text:gmatch("[^/]+") do
        if part == ".." then
            return nil, "'..' is not accepted in a path; write the path in full"
        end
        if part ~= "." then
            parts[#parts + 1] = part
        end
    end
    return "/" .. table.concat(parts, "/")
end

--- Whether `path` is `directory` or below it.
function values.is_below(path, directory)
    return path == directory or path:sub(1, #directory + 1) == directory .. "/"
end

function values.mountpoint(text)
    local path, why = values.path(text)
    if not path then
        return nil, why
    end
    for _, directory in ipairs(grammar.system_directories) do
        if values.is_below(path, directory) then
            return nil, "nothing can be mounted in the system directory " .. directory
                .. "; use a directory of your own"
        end
    end
    if path == "/" then
        return nil, "nothing can be mounted over /; use a directory of your own"
    end
    return path
end

local function split(text)
    local list = {}
    for item in (text .. ":"):gmatch("([^:]*):") do
        list[#list + 1] = item
    end
    return list
end

--- The mountpoints that a key's value names.
function values.places(value, entry)
    return entry.kind == "mountpoints" and split(value) or { value }
end

--- Several mountpoints with `:` between them, of which none is another, or above or below it.
function values.mountpoints(text, entry)
    local items, list = split(text), {}
    if #items > entry.most then
        return nil, #items .. " paths; at most " .. entry.most .. " are accepted"
    end
    for _, item in ipairs(items) do
        local path, why = values.mountpoint(item)
        if not path then
            return nil, item == "" and "an empty path; accepted: absolute paths with : between them" or why
        end
        for _, other in ipairs(list) do
            if values.is_below(path, other) or values.is_below(other, path) then
                return nil, path .. " and " .. other .. " lie one in the other; give the outer one alone"
            end
        end
        list[#list + 1] = path
    end
    return table.concat(list, ":")
end

--- Where a buffer's data comes from or goes to: a file, or for some types a directory (which keeps its final slash).
function values.dataset(text, entry)
    local prefix, rest = text:match("^([^/@]+@)(.*)$")
    prefix = prefix and prefix:upper()
    if prefix and prefix ~= "HESTIA@" then
        return nil, "unknown store; accepted: an absolute path, with HESTIA@ in front for an object store"
    end
    if entry.hestia == "required" and not prefix then
        return nil, "accepted: HESTIA@ and an absolute path"
    end
    local path, why = values.path(rest or text)
    if not path then
        return nil, why
    end
    if path == "/" then
        return nil, "/ is no data set"
    end
    return (prefix or "") .. path .. (entry.directory and "/" or "")
end

return values
