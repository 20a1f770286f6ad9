--- What users are told of their mistakes. Loaded only then: slurmctld waits while a hook's Lua files are read.

local mistakes = {}

local MOST = 20 -- lines

local LETTERS = { "P", "T", "G", "M", "K" }

local function exact(bytes, base, suffix)
    for index, letter in ipairs(LETTERS) do
        local count = bytes / base ^ (#LETTERS + 1 - index)
        if count >= 1 and count < 10000 and count == math.floor(count) then
            return string.format("%.0f%s", count, letter .. suffix)
        end
    end
end

--- A size for people: exact where a unit allows it, otherwise one digit behind the point.
function mistakes.size(bytes)
    local text = exact(bytes, 1024.0, "iB") or exact(bytes, 1000.0, "B")
    if text then
        return text
    end
    for index, letter in ipairs(LETTERS) do
        local unit = 1024.0 ^ (#LETTERS + 1 - index)
        if bytes >= unit then
            return string.format("%.1f%siB", bytes / unit, letter)
        end
    end
    return string.format("%.0f bytes", bytes)
end

--- The flavors that there are, as ebb.capacity reads them.
function mistakes.flavors(flavors)
    local list = {}
    for index, flavor in ipairs(flavors) do
        local parts = { "MemorySize=" .. mistakes.size(tonumber(flavor.MemorySize) or 0),
            "Cores=" .. tostring(flavor.Cores or "?") }
        if (tonumber(flavor.StorageSize) or 0) > 0 then
            parts[#parts + 1] = "StorageSize=" .. mistakes.size(flavor.StorageSize)
        end
        list[index] = string.format("%s (%s)", flavor.Name, table.concat(parts, " "))
    end
    return #list > 0 and table.concat(list, ", ") or "none: this system offers no flavors"
end

--- All errors of a script as the text that a user sees, one a line.
-- @param errors a list of {line, message}
function mistakes.message(errors)
    for index, error_ in ipairs(errors) do
        error_.index = index -- table.sort is not stable
    end
    table.sort(errors, function(one, other)
        return one.line < other.line or one.line == other.line and one.index < other.index
    end)
    local lines = {}
    for index, error_ in ipairs(errors) do
        if index > MOST then
            lines[index] = string.format("and %d more", #errors - MOST)
            break
        end
        lines[index] = string.format("line %d: %s", error_.line, error_.message)
    end
    return table.concat(lines, "\n")
end

return mistakes
