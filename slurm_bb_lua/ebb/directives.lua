--- Ebb's directives: from the text of a script to a checked, normalised list. Pure but for reading the script.
--
-- A directive is {line, type, verb, args}: exactly what goes to the orchestrator. All errors of a script are collected,
-- so that a user mends them in one go.

local grammar = require("ebb.grammar")
local values = require("ebb.values")
local words = require("ebb.words")

local directives = {}

-- args -> {key -> value as the user wrote it}; beside the directives, because they go to the orchestrator as they are
local written = setmetatable({}, { __mode = "k" })

local function names(entries)
    local list = {}
    for index, entry in ipairs(entries) do
        list[index] = entry.name or entry.key
    end
    return table.concat(list, ", ")
end

local function find(entries, field, word)
    for _, entry in ipairs(entries) do
        if word and entry[field]:lower() == word:lower() then
            return entry
        end
    end
end

local function pick(what, entries, word, complain)
    local entry = find(entries, "name", word)
    if not entry then
        local found = word and string.format("unknown %s '%s'", what, words.shown(word)) or "no " .. what
        complain(found .. "; accepted: " .. names(entries))
    end
    return entry
end

-- Cuts one Key=Value word. Returns the key's entry and the value, or nil and what is wrong.
local function key_value(word, keys, args)
    local key, value = word:match("^([^=]*)=(.*)$")
    if not key then
        return nil, string.format("unexpected word '%s'; accepted: Key=Value with the keys %s",
            words.shown(word), names(keys))
    end
    local entry = find(keys, "key", key)
    if not entry then
        return nil, string.format("unknown key %s in '%s'; accepted: %s", words.shown(key), words.shown(word),
            names(keys))
    end
    if args[entry.key] ~= nil then
        return nil, string.format("%s: the key is given twice, the second time as '%s'; give it once",
            entry.key, words.shown(word))
    end
    return entry, value
end

local function fill_in(keys, args, complain)
    for _, entry in ipairs(keys) do
        if entry.required and args[entry.key] == nil then
            complain(string.format("%s is missing; mandatory here: write %s=...", entry.key, entry.key))
        elseif args[entry.key] == nil then
            args[entry.key] = entry.default
        end
    end
end

-- The keys of one directive: list of words from the third on.
local function read_args(list, keys, complain)
    local args = {}
    written[args] = {}
    for index = 3, #list do
        local entry, value = key_value(list[index], keys, args)
        if not entry then
            complain(value)
        else
            local normal, why = values[entry.kind](value, entry)
            if not normal then
                why = value == "" and "no value; " .. why or why
                complain(string.format("%s=%s: %s", entry.key, words.shown(value), why))
            end
            args[entry.key] = normal or false
            written[args][entry.key] = value
        end
    end
    fill_in(keys, args, complain)
    return args
end

--- One directive from the text behind #BB_LUA.
-- @param complain called with each error, a line of text without line number
-- @return the directive {type, verb, args}; nil if it is in error
function directives.parse(text, complain)
    local list, why
    if text ~= "" and not text:find("^%s") then
        why = "a blank must follow #BB_LUA"
    else
        why = words.unfit(text)
    end
    if not why then
        list, why = words.split(text)
    end
    if not list then
        return complain(why)
    end
    local type_ = pick("type", grammar.types, list[1], complain)
    local verb = pick("verb", grammar.verbs, list[2], complain)
    if not type_ or not verb then
        return nil
    end
    local failed = false
    local where = type_.name .. " " .. verb.name .. ": "
    local args = read_args(list, verb.keys(type_), function(message)
        failed = true
        complain(where .. message)
    end)
    return not failed and { type = type_.name, verb = verb.name, args = args } or nil
end

--- A directive's value as the user wrote it, for messages; as it was understood if the user did not write it.
function directives.as_written(directive, key)
    return words.shown((written[directive.args] or {})[key] or directive.args[key])
end

--- Directives from their lines (see ebb.header).
-- @param errors what is wrong with the lines; what is wrong with directives comes to it
-- @return a list of {line, type, verb, args}; right if there are no errors
function directives.check(entries, errors)
    local list = {}
    for _, entry in ipairs(entries) do
        local directive = directives.parse(entry.text, function(message)
            errors[#errors + 1] = { line = entry.line, message = message }
        end)
        if directive then
            directive.line = entry.line
            list[#list + 1] = directive
        end
    end
    if #errors == 0 and #list > 1 then
        list = require("ebb.together").check(list, errors)
    end
    return list
end

return directives
