local capacity = require("ebb.capacity")
local support = require("support")

local TEXT = [[
Version=1
Total Datanodes=4 StorageSize=10000000000000 LargestStorageSize=2500000000000 MemorySize=400000000000
Flavor Name=small MemorySize=5000000000 Cores=2 StorageSize=0 Datanodes=4
Flavor Name=10 MemorySize=50000000000 Cores=8 StorageSize=1000000000000 Datanodes=1
]]

local function create(type_, args)
    return { { line = 3, type = type_, verb = "create_persistent", args = args } }
end

local function check(type_, args)
    local errors = capacity.check(create(type_, args), capacity.parse(TEXT))
    return errors[1] and errors[1].line == 3 and errors[1].message
end

describe("the capacity", function()
    it("lets through what can fit", function()
        assert.is_nil(check("SBB", { Name = "n", Flavor = "small", Datanodes = "4", Targets = "/a" }))
        assert.is_nil(check("SBB", { Name = "n", Flavor = "10", Datanodes = "1", Targets = "/a" }))
        assert.is_nil(check("GBF", { Name = "n", StorageSize = "2500000000000" }))
    end)

    it("lists the flavors when one is unknown", function()
        local message = check("SBB", { Name = "n", Flavor = "huge", Datanodes = "1" })
        assert.matches("Flavor=huge: unknown flavor", message, 1, true)
        assert.matches("small (MemorySize=5GB Cores=2), 10 (MemorySize=50GB Cores=8 StorageSize=1TB)", message, 1, true)
    end)

    it("knows how many datanodes hold a flavor", function()
        assert.matches("Datanodes=5: can never fit: this system has 4 datanodes",
            check("SBB", { Name = "n", Flavor = "small", Datanodes = "5" }), 1, true)
        assert.matches("this system has 1 datanode that",
            check("SBB", { Name = "n", Flavor = "10", Datanodes = "2" }), 1, true)
    end)

    it("knows the largest volume group", function()
        local script = support.script("#BB_LUA DASI create_persistent Name=n StorageSize=20TB DasiConfig=/f "
            .. "data_dst=/d/\n")
        local errors = capacity.check(support.directives(script), capacity.parse(TEXT))
        assert.matches("StorageSize=20TB: can never fit", errors[1].message, 1, true)
        assert.matches("2500GB", errors[1].message, 1, true)
    end)

    it("is not asked by those who create nothing", function()
        assert.same({}, capacity.check({ { line = 1, type = "SBB", verb = "use_persistent", args = { Name = "x" } } },
            capacity.parse(TEXT)))
    end)

    it("is unknown without the file or with another version", function()
        for _, text in ipairs({ "", "Version=2\nTotal Datanodes=0\n", "garbage" }) do
            assert.is_nil(capacity.parse(text))
        end
        assert.is_nil(capacity.parse(nil))
        assert.same({}, capacity.check(create("SBB", { Flavor = "huge" }), nil))
    end)

    it("does not fall over a file of half a thought", function()
        local known = capacity.parse("Version=1\nTotal LargestStorageSize=many\nFlavor Cores=2\nFlavor Name=x\n")
        assert.same({}, capacity.check(create("GBF", { StorageSize = "1" }), known))
        assert.same({}, capacity.check(create("SBB", { Flavor = "x", Datanodes = "1" }), known))
        local message = capacity.check(create("SBB", { Flavor = "y" }), known)[1].message
        assert.matches("x (MemorySize=0 bytes Cores=?)", message, 1, true)
    end)

    it("says that there are no flavors", function()
        local known = capacity.parse("Version=1\nTotal Datanodes=1\n")
        assert.matches("offers no flavors", capacity.check(create("SBB", { Flavor = "y" }), known)[1].message)
    end)

    describe("offers", function()
        local known = capacity.parse("Version=1\nTotal Datanodes=1\n"
            .. "Offers Types=GBF,KVSNS ObjectStore=no MountPrefixes=/home,/scratch\n")

        it("some types and not others", function()
            local errors = capacity.check(create("SBB", {}), known)
            assert.matches("buffers of this type are not served on this system; served: GBF, KVSNS$", errors[1].message)
            assert.same({}, capacity.check(create("GBF", { Path = "/scratch/m" }), known))
        end)

        it("mountpoints below some directories", function()
            for _, path in ipairs({ "/opt/m", "/homes/m", "/" }) do
                assert.matches("must lie below one of /home, /scratch$",
                    capacity.check(create("GBF", { Path = path }), known)[1].message)
            end
        end)

        it("no object store", function()
            local errors = capacity.check(create("GBF", { data_dst = "HESTIA@/home/a/ds" }), known)
            assert.matches("data_dst=HESTIA@/home/a/ds: this system has no object store", errors[1].message)
            assert.same({}, capacity.check(create("GBF", { data_dst = "/home/a/ds" }), known))
        end)
    end)
end)
