--- The directive lines of a job script, found exactly as Slurm finds them.
--
-- Slurm's rule (burst_buffer/lua, the same in every release from 22.05 on): lines are read as long as they begin with
-- `#` or are empty; the first other line ends it, even one that holds a single blank. A line that begins with `#BB_LUA`
-- is a directive. If it ends with `\`, the next line continues it, provided that it begins with `#BB_LUA` too; then the
-- blanks behind that word are dropped if a blank stood before the `\`.

local header = {}

local DIRECTIVE = "#BB_LUA"
local HASH = 35
-- All this is done inside slurmctld with its locks held: what a script may make it do has bounds.
local LONGEST = 256 * 1024 -- of all directive lines together; the wire carries 1 MiB
local MOST = 100 -- directives in one script
local FIRST_BLOCK, BLOCK = 4096, 65536

local Collector = {}
Collector.__index = Collector

local function new_collector()
    return setmetatable({ list = {}, errors = {}, size = 0, open = nil, blank = false }, Collector)
end

function Collector:complain(line, message)
    self.errors[#self.errors + 1] = { line = line, message = message }
end

-- A line that is no directive, or the end of the header, came where a continuation was announced.
function Collector:close()
    if self.open then
        self:complain(self.open.line, "the line ends with \\ but the next line does not begin with " .. DIRECTIVE
            .. "; begin every continuation with it")
        self.open = nil
    end
end

function Collector:directive(number, text)
    local rest = text:sub(#DIRECTIVE + 1)
    local entry = self.open
    if entry then
        rest = self.blank and rest:gsub("^%s+", "") or rest
    else
        entry = { line = number, parts = {} }
        self.list[#self.list + 1] = entry
    end
    self.open = nil
    if rest:sub(-1) == "\\" then
        self.open, rest = entry, rest:sub(1, -2)
        self.blank = rest:find("%s$") ~= nil
    end
    entry.parts[#entry.parts + 1] = rest
    self.size = self.size + #text + 1
    return self:check_size(number)
end

function Collector:check_size(number)
    if self.size > LONGEST then
        self:complain(number, "more than " .. LONGEST .. " bytes of directives in one script")
    elseif #self.list > MOST then
        self:complain(number, "more than " .. MOST .. " directives in one script")
    else
        return true
    end
    self.open = nil
    return false
end

-- Joins each directive's lines at the end: one by one would copy the text again for every line.
function Collector:finish()
    self:close()
    for _, entry in ipairs(self.list) do
        entry.text, entry.parts = table.concat(entry.parts), nil
    end
    return self.list, self.errors
end

-- Where the next line that begins with #BB_LUA begins; `from` is where a line begins or ends.
local function line_of_directive(text, from)
    if text:sub(from, from + #DIRECTIVE - 1) == DIRECTIVE then
        return from
    end
    local before = text:find("\n" .. DIRECTIVE, from, true)
    return before and before + 1
end

-- Takes every complete line of `text`. Returns where the rest begins and the number of lines so far,
-- or nil when the header has ended.
local function take_lines(collector, text, number)
    local find, byte = string.find, string.byte -- thousands of comment lines pass here inside slurmctld
    local from, next_directive = 1, line_of_directive(text, 1)
    while true do
        local stop = find(text, "\n", from, true)
        if not stop then
            return from, number
        end
        number = number + 1
        if from == next_directive then
            if not collector:directive(number, text:sub(from, stop - 1)) then
                return nil
            end
            next_directive = line_of_directive(text, stop)
        elseif byte(text, from) == HASH then
            if collector.open then
                collector:close()
            end
        elseif stop > from then
            return nil
        end
        from = stop + 1
    end
end

-- What may be forgotten of an incomplete line: a comment of many megabytes must not be collected.
local function trim(text)
    if #text <= LONGEST or text:sub(1, #DIRECTIVE) == DIRECTIVE then
        return text
    end
    return "##" -- two: whatever follows, it cannot look like a directive
end

--- Reads the directives of an open script, no further than its header reaches.
-- @param script anything with read(self, bytes), such as a file
-- @return a list of {line, text}: number of the first line, text behind #BB_LUA with continuations joined
-- @return a list of {line, message}
function header.read(script)
    local collector = new_collector()
    local rest, number, block = "", 0, FIRST_BLOCK
    while true do
        local more = script:read(block)
        block = BLOCK
        rest = rest .. (more or "\n")
        local from
        from, number = take_lines(collector, rest, number)
        if not from or not more then
            break
        end
        rest = trim(rest:sub(from))
        local first = rest:byte(1)
        if first and first ~= HASH then
            break
        end
        if #rest > LONGEST then
            collector:complain(number + 1, "more than " .. LONGEST .. " bytes of directives in one script")
            break
        end
    end
    return collector:finish()
end

return header
