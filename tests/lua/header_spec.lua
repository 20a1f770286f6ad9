local header = require("ebb.header")
local support = require("support")

local function read(text)
    local list, errors = header.read(support.script(text))
    local texts = {}
    for index, entry in ipairs(list) do
        texts[index] = entry.line .. ":" .. entry.text
    end
    return texts, errors
end

describe("the header of a script", function()
    it("holds the #BB_LUA lines, with their numbers", function()
        assert.same({ "2: one", "4: two" }, (read("#!/bin/bash\n#BB_LUA one\n#SBATCH -N1\n#BB_LUA two\nsrun x\n")))
    end)

    it("ends at the first line that is no comment", function()
        assert.same({ "2: one" }, (read("#!/bin/bash\n#BB_LUA one\nsrun x\n#BB_LUA two\n")))
    end)

    it("goes on over empty lines, but not over a line of a blank", function()
        assert.same({ "4: one" }, (read("#!/bin/bash\n\n\n#BB_LUA one\n")))
        assert.same({}, (read("#!/bin/bash\n \n#BB_LUA one\n")))
        assert.same({}, (read("#!/bin/bash\n\r\n#BB_LUA one\n")))
    end)

    it("knows a directive by its exact first letters", function()
        local text = "#!/bin/bash\n# BB_LUA one\n#bb_lua two\n#BB_LUAX\n##BB_LUA three\n #BB_LUA four\n"
        assert.same({ "4:X" }, (read(text)))
    end)

    it("reads the last line without a newline", function()
        assert.same({ "1: one" }, (read("#BB_LUA one")))
        assert.same({}, (read("")))
    end)

    it("joins a line that ends with a backslash to the next directive line", function()
        assert.same({ "2: a b", "5: c" }, (read("#!/bin/sh\n#BB_LUA a \\\n\n#BB_LUA    b\n#BB_LUA c\n")))
    end)

    it("joins without a blank where there was none", function()
        assert.same({ "1: name=x y" }, (read("#BB_LUA name=\\\n#BB_LUAx \\\n#BB_LUA \ty")))
    end)

    it("complains of a continuation that never comes", function()
        for _, text in ipairs({ "#BB_LUA a \\\n   b\n", "#BB_LUA a \\\n# b\n#BB_LUA c", "#BB_LUA a \\" }) do
            local _, errors = read("#!/bin/sh\n" .. text)
            assert.equal(1, #errors)
            assert.equal(2, errors[1].line)
            assert.matches("begin every continuation", errors[1].message)
        end
    end)

    it("is found the same wherever the blocks of reading end", function()
        for length = 4080, 4110 do
            local text = "#!/bin/bash\n#" .. ("x"):rep(length) .. "\n#BB_LUA a \\\n#BB_LUA b\nsrun\n#BB_LUA c\n"
            assert.same({ "3: a b" }, (read(text)))
        end
    end)

    it("is all that is read of a script of 10 MB", function()
        local script = support.script("#!/bin/bash\n#BB_LUA a\n" .. ("srun x\n"):rep(1500000) .. "#BB_LUA b\n")
        assert.equal(1, #header.read(script))
        assert.is_true(script.taken <= 4096)
    end)

    it("does not read on through a body of one endless line", function()
        local script = support.script("#!/bin/bash\n#BB_LUA a\n" .. ("x"):rep(1e7))
        assert.equal(1, #header.read(script))
        assert.is_true(script.taken <= 4096)
    end)

    it("may hold a comment of megabytes", function()
        local filler = (" BB_LUA"):rep(300000)
        assert.same({ "3: a" }, (read("#!/bin/sh\n#" .. filler .. "\n#BB_LUA a\n")))
    end)

    it("may not hold megabytes of directives", function()
        local _, errors = read("#BB_LUA " .. ("x"):rep(1e6))
        assert.matches("262144 bytes", errors[1].message)
        _, errors = read(("#BB_LUA " .. ("x"):rep(1000) .. "\n"):rep(1000))
        assert.equal(1, #errors)
    end)

    it("may not hold directives by the hundred thousand", function()
        local list, errors = read("#!/bin/sh\n" .. ("#BB_LUA\n"):rep(500000))
        assert.equal(1, #errors)
        assert.matches("more than 100 directives", errors[1].message)
        assert.is_true(#list <= 101)
    end)

    it("counts the lines of a continuation whole", function()
        local thousands = support.thousands(function()
            local _, errors = read(("#BB_LUAx\\\n"):rep(200000))
            assert.equal(1, #errors)
            assert.matches("262144 bytes", errors[1].message)
        end)
        assert.is_true(thousands < 10000, thousands .. " thousand instructions")
    end)
end)
