local grammar = require("ebb.grammar")
local mistakes = require("ebb.mistakes")
local support = require("support")

local GBF = "GBF create_persistent Name=toto StorageSize=6GiB Path=/home/a/m FSType=ganesha"

local function read(...)
    local lines = table.concat({ ... }, "\n#BB_LUA ")
    return support.directives(support.script("#!/bin/bash\n#BB_LUA " .. lines .. "\nsrun x\n"))
end

local function accepted(...)
    local list, errors = read(...)
    assert.equal("", mistakes.message(errors))
    return list
end

local function refused(...)
    local _, errors = read(...)
    assert.is_true(#errors > 0, "accepted")
    return mistakes.message(errors)
end

describe("a directive", function()
    it("is read with its defaults, sizes as bytes", function()
        assert.same({ {
            line = 2, type = "GBF", verb = "create_persistent",
            args = {
                Name = "toto", StorageSize = "6442450944", Path = "/home/a/m", FSType = "ganesha",
                MetaDataServers = "0", StorageDataServers = "1",
            },
        } }, accepted(GBF))
        assert.same({ {
            line = 2, type = "SBB", verb = "create_persistent",
            args = { Name = "n", Flavor = "small", Targets = "/a:/b/c", Datanodes = "1", Sync = "servers",
                StripeSize = "1048576" },
        } }, accepted("SBB create_persistent Name=n Flavor=small Targets=/a:/b/c"))
        assert.same({ Name = "n", Discard = "no" }, accepted("GBF destroy_persistent Name=n")[1].args)
        assert.same({ Name = "n" }, accepted("KVSNS use_persistent Name=n")[1].args)
    end)

    it("is read for every type of the contract", function()
        accepted("SBB create_persistent Name=N Flavor=F Targets=/a:/b Datanodes=4 Sync=target StripeSize=128KiB")
        accepted("DASI create_persistent Name=N StorageSize=1G DasiConfig=/f.yaml data_dst=/d/ data_src=/d/")
        accepted("KVSNS create_persistent Name=N StorageSize=1G Path=/p data_dst=HESTIA@/f data_src=HESTIA@/f")
        for _, type_ in ipairs(grammar.types) do
            assert.equal(type_.name, accepted(type_.name .. " use_persistent Name=N")[1].type)
            assert.equal("yes", accepted(type_.name .. " destroy_persistent Name=N Discard=YES")[1].args.Discard)
        end
    end)

    it("may be written in any case, order and quotes", function()
        local directive = accepted(" gbf\tCREATE_Persistent  fstype=GANESHA path='/home/a/my mount' "
            .. "NAME=\"toto\" storagesize=6g metadataservers=0")[1]
        assert.equal("GBF", directive.type)
        assert.equal("create_persistent", directive.verb)
        assert.equal("/home/a/my mount", directive.args.Path)
        assert.equal("toto", directive.args.Name)
        assert.equal("6442450944", directive.args.StorageSize)
    end)

    it("may keep part of a value in quotes", function()
        assert.equal("/home/a b/it's", accepted(GBF .. " data_src=/home/'a b'\"/it's\"")[1].args.data_src)
    end)

    it("has normalised paths", function()
        local args = accepted("GBF create_persistent Name=n StorageSize=1G Path=//home/./a///m/ FSType=ganesha "
            .. "data_src=hestia@/x//y data_dst=/x/y/")[1].args
        assert.equal("/home/a/m", args.Path)
        assert.equal("HESTIA@/x/y", args.data_src)
        assert.equal("/x/y", args.data_dst)
    end)

    it("keeps the final slash of a DASI directory", function()
        local dasi = "DASI create_persistent Name=N StorageSize=1G DasiConfig=/f.yaml data_dst="
        assert.equal("/d/", accepted(dasi .. "/d/")[1].args.data_dst)
        assert.equal("HESTIA@/d/", accepted(dasi .. "HESTIA@/d")[1].args.data_dst)
    end)

    it("has sizes of whole MiB", function()
        assert.equal("315621376", accepted((GBF:gsub("6GiB", "314572801")))[1].args.StorageSize)
    end)

    it("takes each combination of data_src and data_dst", function()
        for _, rest in ipairs({ "", " data_dst=/ds", " data_src=/ds", " data_src=/ds data_dst=/ds",
            " data_src=/a data_dst=/b" }) do
            accepted(GBF .. rest)
        end
    end)
end)

describe("an error", function()
    local cases = {
        { "", "no type", "SBB, GBF, DASI, KVSNS", "no verb", "create_persistent, use_persistent, destroy_persistent" },
        { "XXX use_persistent Name=n", "'XXX'", "SBB, GBF, DASI, KVSNS" },
        { "GBF make Name=n", "'make'", "create_persistent, use_persistent, destroy_persistent" },
        { "GBF use_persistent", "Name is missing" },
        { "GBF use_persistent Name=", "Name=", "no value" },
        { "GBF use_persistent Name=n Name=n", "Name", "twice" },
        { "GBF use_persistent Name=n Name", "'Name'", "Key=Value" },
        { "GBF use_persistent Name=n # mine", "'#'" },
        { "GBF use_persistent Name=n Path=/x", "Path", "accepted: Name" },
        { "GBF use_persistent Name=-n", "Name=-n", "64 letters" },
        { "GBF use_persistent Name=a/b", "Name=a/b" },
        { "GBF use_persistent Name=" .. ("n"):rep(65), "64 letters" },
        { "GBF use_persistent Name=\"n", "quote" },
        { "GBF use_persistent Name=%j", "%", "Slurm" },
        { "GBF use_persistent Name=\255", "UTF-8" },
        { "GBF use_persistent Name=\237\160\128", "UTF-8" },
        { "GBF use_persistent Name=a\27[31m", "control" },
        { "GBF destroy_persistent Name=n Discard=maybe", "Discard=maybe", "yes, no" },
        { GBF .. " Size=6G", "Size", "StorageSize" },
        { GBF .. " StorageSize=1G", "StorageSize", "twice" },
        { (GBF:gsub("6GiB", "6Gigs")), "StorageSize=6Gigs", "KiB..PiB" },
        { (GBF:gsub("6GiB", "299MiB")), "StorageSize=299MiB", "300MiB" },
        { (GBF:gsub("6GiB", "0")), "StorageSize=0", "zero" },
        { (GBF:gsub("FSType=ganesha", "")), "FSType is missing" },
        { (GBF:gsub("ganesha", "lustre")), "FSType=lustre", "ganesha" },
        { GBF .. " MetaDataServers=1", "MetaDataServers=1", "0", "FSType=ganesha" },
        { GBF .. " StorageDataServers=2", "StorageDataServers=2", "1", "FSType=ganesha" },
        { GBF .. " data_dst=S3@/x", "data_dst=S3@/x", "HESTIA@" },
        { GBF .. " data_dst=/", "data_dst=/" },
        { (GBF:gsub("/home/a/m", "mnt")), "Path=mnt", "begins with /" },
        { (GBF:gsub("/home/a/m", "~/mnt")), "Path=~/mnt", "written in full" },
        { (GBF:gsub("/home/a/m", "$HOME/mnt")), "not an absolute path" },
        { (GBF:gsub("/home/a/m", "/home/$USER")), "Path=/home/$USER", "not expanded" },
        { (GBF:gsub("/home/a/m", "/home/`id`")), "not expanded" },
        { (GBF:gsub("/home/a/m", "/home/../etc")), "'..'" },
        { (GBF:gsub("/home/a/m", "/home/" .. ("x"):rep(4095))), "4095" },
        { "SBB create_persistent Name=n Flavor=f Targets=/a:b", "Targets=/a:b", "absolute" },
        { "SBB create_persistent Name=n Flavor=f Targets=/a::/b", "empty path" },
        { "SBB create_persistent Name=n Flavor=f Targets=/a Datanodes=0", "Datanodes=0", "from 1 to" },
        { "SBB create_persistent Name=n Flavor=f Targets=/a Datanodes=two", "Datanodes=two" },
        { "SBB create_persistent Name=n Flavor=f Targets=/a Sync=never", "Sync=never", "servers, target" },
        { "SBB create_persistent Name=n Flavor=f Targets=/a:/usr", "/usr", "system directory" },
        { "SBB create_persistent Name=n Flavor=f Targets=/a/b:/a", "lie one in the other" },
        { "SBB create_persistent Name=n Flavor=f Targets=/a StripeSize=4K", "StripeSize=4K", "64KiB" },
        { "SBB create_persistent Name=n", "Flavor is missing" },
        { "DASI create_persistent Name=n StorageSize=1G DasiConfig=/f", "data_dst is missing" },
        { "KVSNS create_persistent Name=n StorageSize=1G Path=/p data_dst=/f", "data_dst=/f", "HESTIA@" },
    }
    for _, case in ipairs(cases) do
        it("in '" .. case[1]:gsub("[^ -~]", "?"):sub(1, 90) .. "' says what and what is accepted", function()
            local message = refused(case[1])
            for line in message:gmatch("[^\n]+") do
                assert.matches("^line 2: ", line)
            end
            for index = 2, #case do
                assert.is_truthy(message:find(case[index], 1, true), message .. "\nlacks: " .. case[index])
            end
        end)
    end

    it("for a mountpoint names the system directory", function()
        for _, path in ipairs({ "/", "/etc", "/etc/x", "/usr/lib", "/bin", "/sbin/x", "/lib", "/lib64/x", "/proc/1",
            "/sys", "/dev/shm", "/run/x", "/boot", "/root/m", "/var", "/var/tmp/x", "//etc", "/./etc/", }) do
            assert.matches("nothing can be mounted", refused((GBF:gsub("/home/a/m", path))))
            assert.matches("nothing can be mounted",
                refused("KVSNS create_persistent Name=n StorageSize=1G data_dst=HESTIA@/f Path=" .. path))
        end
        for _, path in ipairs({ "/etcetera", "/home/etc", "/library/x", "/scratch" }) do
            accepted((GBF:gsub("/home/a/m", path)))
        end
    end)

    it("is told with all others, in the order of the lines", function()
        local message = refused("GBF use_persistent Name=/", "FOO use_persistent Name=n",
            GBF:gsub("6GiB", "1X") .. " Foo=1")
        assert.equal(4, select(2, message:gsub("[^\n]+", "")))
        assert.matches("^line 2: .*Name=/.*\nline 3: .*'FOO'.*\nline 4: .*StorageSize=1X.*\nline 4: .*Foo", message)
    end)

    it("does not come alone by the hundred", function()
        local lines = {}
        for index = 1, 100 do
            lines[index] = "FOO"
        end
        local message = refused((table.unpack or unpack)(lines)) -- luacheck: ignore 143 113
        assert.equal(21, select(2, message:gsub("[^\n]+", "")))
        assert.matches("and 180 more$", message)
    end)

    it("with thousands of targets does not hold up slurmctld", function()
        local paths = {}
        for index = 1, 8000 do
            paths[index] = "/" .. index
        end
        local line = "SBB create_persistent Name=n Flavor=f Targets=" .. table.concat(paths, ":")
        local thousands = support.thousands(function()
            assert.matches("8000 paths; at most 64 are accepted", refused(line))
        end)
        assert.is_true(thousands < 1000, thousands .. " thousand instructions")
    end)

    it("is one for a directive of a hundred thousand words", function()
        assert.equal("line 2: more than 64 words in one directive", refused(("a=b "):rep(50000)))
    end)

    it("shows no more of a long value than fits", function()
        assert.is_true(#refused("GBF use_persistent Name=" .. ("n"):rep(100000)) < 400)
    end)
end)

describe("several directives", function()
    local use, destroy = "GBF use_persistent Name=toto", "GBF destroy_persistent Name=toto"
    local other = GBF:gsub("toto", "other")

    it("may make, use and destroy buffers in one script", function()
        assert.equal(2, #accepted(GBF, use))
        assert.equal(3, #accepted(GBF, use, destroy))
        assert.equal(2, #accepted(use, destroy))
        assert.equal(2, #accepted(use, "SBB use_persistent Name=other"))
        assert.equal(2, #accepted(GBF, (other:gsub("/m", "/n"))))
        assert.equal(2, #accepted(destroy, "GBF destroy_persistent Name=other"))
    end)

    it("may not mount one of an SBB's targets over another buffer, nor below it", function()
        local sbb = "SBB create_persistent Name=s Flavor=f Targets=/b:%s"
        assert.matches("Targets=/home/a/m/b: .*must lie apart", refused(GBF, (sbb:format("/home/a/m/b"))))
        assert.matches("Targets=/home/a/m: .*must lie apart", refused(GBF, (sbb:format("/home/a/m"))))
        assert.equal(2, #accepted(GBF, (sbb:format("/home/a/n"))))
    end)

    it("may use a buffer twice, which counts once", function()
        assert.equal(1, #accepted(use, "SBB use_persistent Name=toto"))
    end)

    it("may not make or destroy one name twice", function()
        assert.matches("^line 3: .*Name=toto.*line 2", refused(GBF, (GBF:gsub("/m", "/n"))))
        assert.matches("^line 3: .*Name=toto.*line 2", refused(destroy, destroy))
    end)

    it("may not make and destroy without a use", function()
        local message = refused(GBF, destroy)
        assert.matches("^line 3: .*Name=toto", message)
        assert.matches("GBF use_persistent Name=toto", message, 1, true)
    end)

    it("may not mount at, above or below the same path", function()
        for _, path in ipairs({ "/home/a/m", "/home/a/m/", "/home/a", "/home/a/m/below" }) do
            assert.matches("^line 3: .*Path=.*line 2", refused(GBF, (other:gsub("/home/a/m", path))))
        end
        accepted(GBF, (other:gsub("/home/a/m", "/home/a/mm")))
    end)

    it("are judged at once, however many and however wrong", function()
        local lines = {}
        for index = 1, 99 do
            lines[index] = GBF:gsub("toto", "n" .. index) .. " data_dst=/ds"
        end
        local thousands = support.thousands(function()
            local message = refused((table.unpack or unpack)(lines)) -- luacheck: ignore 143 113
            assert.matches("and 176 more$", message)
        end)
        assert.is_true(thousands < 1000, thousands .. " thousand instructions")
    end)

    it("may not save two buffers to one place", function()
        local message = refused(GBF .. " data_dst=/ds", other:gsub("/m", "/n") .. " data_dst=//ds/")
        assert.matches("^line 3: .*data_dst=/ds.*line 2", message)
    end)
end)
