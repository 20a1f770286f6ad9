-- Whatever users write: never an error inside, always either directives or a message.

local mistakes = require("ebb.mistakes")
local support = require("support")

local PIECES = {
    "#BB_LUA", "\n#BB_LUA ", "\n", "\\", "\\\n", " ", "\t", "\r", "=", ":", "/", "//", "..", "'", '"', "%", "$", "`",
    "~", "#", ",", "\0", "\1", "\255", "\195\169", "GBF", "sbb", "DASI", "KVSNS", "create_persistent", "use_persistent",
    "destroy_persistent", "Name", "Name=n", "StorageSize", "StorageSize=1G", "6GiB", "1e9", "-1", "0",
    "99999999999999999999", "Path=/p", "FSType=ganesha", "Flavor=f", "Targets=/a:/b", "Datanodes=", "data_dst=",
    "data_src=HESTIA@/x", "DasiConfig=/y", "Discard=yes", "[", "(", "^", "%d", ".", "*", ("x"):rep(5000),
}

local function text_of(random, length)
    local parts = { "#!/bin/bash\n#BB_LUA " }
    for index = 2, length do
        parts[index] = PIECES[random(#PIECES)] .. (random(2) == 1 and " " or "")
    end
    return table.concat(parts)
end

local function written(directive)
    local parts = { "#BB_LUA", directive.type, directive.verb }
    for key, value in pairs(directive.args) do
        local quote = value:find('"', 1, true) and "'" or '"'
        if value:find("'", 1, true) and value:find('"', 1, true) then
            return nil
        end
        parts[#parts + 1] = key .. "=" .. quote .. value .. quote
    end
    return table.concat(parts, " ") .. "\n"
end

local function check(text)
    local list, errors = support.directives(support.script(text))
    for _, error_ in ipairs(errors) do
        assert.is_number(error_.line)
        assert.is_nil(error_.message:find("%c"), error_.message)
    end
    assert.equal(#errors == 0, mistakes.message(errors) == "")
    assert.is_true(#errors > 0 or #list > 0, text)
    return #errors == 0 and list or {}
end

describe("random directives", function()
    it("give directives or a message", function()
        math.randomseed(471967)
        for _ = 1, 3000 do
            check(text_of(math.random, math.random(1, 25)))
        end
    end)

    it("that are accepted mean the same when written as they were understood", function()
        math.randomseed(473130)
        local accepted = 0
        local bodies = { "GBF create_persistent StorageSize=%s Path=%s FSType=ganesha Name=%s",
            "SBB create_persistent Flavor=f Targets=%s:%s Name=%s", "GBF destroy_persistent Discard=%s %s Name=%s" }
        local values = { "1G", "5000MB", "/a//b/.", "'/x y'", "/é", "no", "yes", "n", "A.b-c", "", "/\"'\"" }
        for _ = 1, 2000 do
            local function value() return values[math.random(#values)] end
            local text = string.format(bodies[math.random(#bodies)], value(), value(), value())
            for _, directive in ipairs(check("#BB_LUA " .. text)) do
                local again = written(directive)
                if again then
                    assert.same({ directive }, (support.directives(support.script(again))))
                    accepted = accepted + 1
                end
            end
        end
        assert.is_true(accepted > 20)
    end)
end)
