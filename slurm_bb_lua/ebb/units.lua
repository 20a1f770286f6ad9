--- Sizes as users write them; ebb.mistakes writes them for users.
--
-- Bytes are kept in Lua numbers, exact up to 2^53 in every Lua version. Arithmetic is done in floating point on
-- purpose: the integers of Lua 5.3 would wrap round where a double only grows.

local units = {}

local LETTERS = { "K", "M", "G", "T", "P" }
local EXACT_LIMIT = 2 ^ 53
local MIB = 1024.0 ^ 2

units.accepted = "whole bytes, or a whole number with K M G T P or KiB..PiB (powers of 1024) or KB..PB (powers of 1000)"

-- lower-case suffix -> bytes
local factor = { [""] = 1.0 }
for power, letter in ipairs(LETTERS) do
    local name = letter:lower()
    factor[name] = 1024.0 ^ power
    factor[name .. "ib"] = 1024.0 ^ power
    factor[name .. "b"] = 1000.0 ^ power
end

--- Bytes of a size as users write it. Fractions are refused: 1.5T is 1536G, and nobody has to guess the rounding.
-- @return the bytes, or nil and what is wrong
function units.parse(text)
    local digits, suffix = text:match("^(%d+)(%a*)$")
    local unit = suffix and factor[suffix:lower()]
    if not unit then
        local fraction = text:match("^%d+%.%d*%a*$")
        local what = fraction and "fractions are not accepted, use a smaller unit" or "not a size"
        return nil, what .. "; accepted: " .. units.accepted
    end
    local bytes = tonumber(digits) * unit
    if bytes == 0 then
        return nil, "a size must be larger than zero"
    end
    if bytes >= EXACT_LIMIT then -- at the limit itself a larger number may have been rounded to it
        return nil, "too large; accepted: less than 8P"
    end
    return bytes
end

--- The next whole MiB: volumes and file systems are made in whole MiB.
function units.round_up(bytes)
    return math.ceil(bytes / MIB) * MIB
end

--- Bytes as digits, never in exponent form.
function units.digits(bytes)
    return string.format("%.0f", bytes)
end

return units
