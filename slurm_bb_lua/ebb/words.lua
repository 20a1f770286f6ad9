--- A directive's text cut into words, as a shell would do it with quotes: '...' and "..." keep blanks and go away.

local words = {}

local MOST = 64 -- words in one directive; the longest that makes sense has a dozen

-- One word from `from` on, which is no blank. Returns the word and where to go on, or nil and what is wrong.
local function next_word(text, from)
    local parts = {}
    while true do
        local stop = text:find("[%s'\"]", from) or #text + 1
        parts[#parts + 1] = text:sub(from, stop - 1)
        local quote = text:match("^['\"]", stop)
        if not quote then
            return table.concat(parts), stop
        end
        local close = text:find(quote, stop + 1, true)
        if not close then
            return nil, "a quote (" .. quote .. ") is not closed"
        end
        parts[#parts + 1] = text:sub(stop + 1, close - 1)
        from = close + 1
    end
end

--- @return the list of words, or nil and what is wrong
function words.split(text)
    local list = {}
    local from = text:find("%S")
    while from do
        local word, after = next_word(text, from)
        if not word then
            return nil, after
        end
        list[#list + 1] = word
        if #list > MOST then
            return nil, "more than " .. MOST .. " words in one directive"
        end
        from = text:find("%S", after)
    end
    return list
end

-- What well-formed UTF-8 is made of beyond ASCII (RFC 3629, table of syntax).
local SEQUENCES = {
    "\240[\144-\191][\128-\191][\128-\191]", "[\241-\243][\128-\191][\128-\191][\128-\191]",
    "\244[\128-\143][\128-\191][\128-\191]", "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]",
    "\237[\128-\159][\128-\191]", "[\194-\223][\128-\191]",
}

--- Why a text cannot be a directive at all, or nil if it can.
function words.unfit(text)
    if text:find("%", 1, true) then
        return "'%' is not accepted in a #BB_LUA line: Slurm would replace %j and the like there"
    end
    if text:gsub("[\t\r]", " "):find("%c") then
        return "control characters are not accepted in a #BB_LUA line"
    end
    if text:find("[\128-\255]") then
        for _, sequence in ipairs(SEQUENCES) do
            text = text:gsub(sequence, " ")
        end
        if text:find("[\128-\255]") then
            return "not UTF-8 text"
        end
    end
end

--- A piece of the user's text for a message: printable and short.
function words.shown(text)
    text = text:gsub("%c", "?")
    return #text <= 80 and text or text:sub(1, 77) .. "..."
end

return words
