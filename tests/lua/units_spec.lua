local mistakes = require("ebb.mistakes")
local units = require("ebb.units")

describe("a size", function()
    local sizes = {
        ["1"] = 1, ["4096"] = 4096, ["1K"] = 1024, ["1k"] = 1024, ["1KiB"] = 1024, ["1KB"] = 1000,
        ["3M"] = 3 * 1024 ^ 2,
        ["6GiB"] = 6442450944, ["6gib"] = 6442450944, ["6GB"] = 6e9, ["500GB"] = 500e9, ["2T"] = 2 * 1024 ^ 4,
        ["10TB"] = 10e12, ["1PB"] = 1e15, ["1PiB"] = 1024 ^ 5, ["7P"] = 7 * 1024 ^ 5, ["9007199254740991"] = 2 ^ 53 - 1,
        ["007G"] = 7 * 1024 ^ 3,
    }
    for text, bytes in pairs(sizes) do
        it("reads " .. text, function()
            assert.equal(bytes, (units.parse(text)))
        end)
    end

    local refused = {
        "", "G", "-1G", "+1G", "1.5T", ".5G", "1,5G", "1 G", "6Gi", "6GBs", "6E", "6EiB", "0x10", "1e9", "ten", "5B",
        "1G1", "0", "0G", "8P", "9P", "9007199254740992", "9007199254740993", "99999999999999999999999999P",
        "1024P", "\226\136\158",
    }
    for _, text in ipairs(refused) do
        it("refuses '" .. text .. "' with a reason", function()
            local bytes, why = units.parse(text)
            assert.is_nil(bytes)
            assert.is_string(why)
        end)
    end

    it("says of a fraction what to do", function()
        assert.matches("smaller unit", select(2, units.parse("1.5T")))
    end)

    it("is rounded up to whole MiB and kept as digits", function()
        assert.equal("1048576", units.digits(units.round_up(1)))
        assert.equal("1048576", units.digits(units.round_up(1048576)))
        assert.equal("2097152", units.digits(units.round_up(1048577)))
        assert.equal("9007199254740992", units.digits(units.round_up(2 ^ 53 - 1)))
    end)

    it("is shown in a unit that people read", function()
        assert.equal("6GiB", mistakes.size(6442450944))
        assert.equal("10TB", mistakes.size(10e12))
        assert.equal("2.5GiB", mistakes.size(2.5 * 1024 ^ 3 + 1))
        assert.equal("2500GB", mistakes.size(2500e9))
        assert.equal("0 bytes", mistakes.size(0))
        assert.equal("999 bytes", mistakes.size(999))
    end)
end)
