local support = require("support")

local SCRIPT = "#!/bin/bash\n#BB_LUA GBF create_persistent Name=toto StorageSize=1GiB Path=/home/a/m FSType=ganesha\n"
    .. "#BB_LUA GBF use_persistent Name=toto\nsrun x\n"

-- The hooks that ask the orchestrator, and how the job they are called for goes on.
local ASKING = { "setup", "data_in", "pre_run", "post_run", "data_out", "job_teardown" }

for _, release in ipairs(support.releases) do
    describe("under Slurm " .. release, function()
        local polls = release >= "24.05"
        local run_dir, job, server, fake

        local function call(hook)
            return support.call(release, hook, job)
        end

        local function start(...)
            server = support.orchestrator(run_dir, { ... })
        end

        before_each(function()
            run_dir = support.run_dir()
            fake = support.load(release)
            job = { script = support.write(run_dir .. "/script", SCRIPT), path_file = run_dir .. "/path_file",
                nodes = "cn[1-2]" }
        end)

        after_each(function()
            if server then
                server.stop()
                server = nil
            end
            support.remove(run_dir)
        end)

        it("every hook that Slurm requires is there", function()
            for _, hook in ipairs({ "job_process", "pools", "job_teardown", "setup", "data_in", "test_data_in",
                "real_size", "paths", "pre_run", "post_run", "data_out", "test_data_out", "get_status" }) do
                assert.is_function(_G["slurm_bb_" .. hook])
            end
        end)

        it("a good script passes with one single value", function()
            local code, _, count = call("job_process")
            assert.equal(slurm.SUCCESS, code)
            assert.equal(1, count)
        end)

        it("a bad script is refused with all its errors", function()
            support.write(job.script, "#!/bin/sh\n#BB_LUA FOO use_persistent Name=a\n#BB_LUA GBF use_persistent\n")
            local code, message = call("job_process")
            assert.equal(slurm.ERROR, code)
            assert.matches("^line 2: unknown type 'FOO'[^\n]*\nline 3: [^\n]*Name is missing[^\n]*$", message)
        end)

        it("a script that can never fit is refused", function()
            support.write(run_dir .. "/capacity", "Version=1\nTotal LargestStorageSize=1000000000\n")
            local code, message = call("job_process")
            assert.equal(slurm.ERROR, code)
            assert.matches("StorageSize=1GiB: can never fit: the largest volume group of this system has 1GB", message,
                1, true)
        end)

        it("a script that cannot be read is refused with the reason", function()
            job.script = run_dir .. "/nothing"
            for _, hook in ipairs({ "job_process", "setup" }) do
                local code, message = call(hook)
                assert.equal(slurm.ERROR, code)
                assert.matches("No such file", message)
            end
        end)

        it("pools and real_size always succeed", function()
            for _, hook in ipairs({ "pools", "real_size" }) do
                local code, _, count = call(hook)
                assert.equal(slurm.SUCCESS, code)
                assert.equal(1, count)
            end
        end)

        it("setup tells the orchestrator what the job wants", function()
            start({ ok = true, state = "ready" })
            local code, _, count = call("setup")
            assert.equal(slurm.SUCCESS, code)
            assert.equal(1, count)
            local request = server.requests()[1]
            assert.matches("^j42%-setup%-%x%x%x%x$", request.request_id)
            request.request_id = nil
            assert.same({
                v = 1, verb = "setup", job_id = 42, uid = 1000, gid = 1000,
                directives = {
                    { line = 2, type = "GBF", verb = "create_persistent", args = {
                        Name = "toto", StorageSize = "1073741824", Path = "/home/a/m", FSType = "ganesha",
                        MetaDataServers = "0", StorageDataServers = "1",
                    } },
                    { line = 3, type = "GBF", verb = "use_persistent", args = { Name = "toto" } },
                },
            }, request)
        end)

        it("setup of a task of an array, which has no script, takes the directives that Slurm keeps", function()
            start({ ok = true, state = "ready" })
            job.script = run_dir .. "/it's/nothing"
            job.burst_buffer = "#BB_LUA GBF use_persistent Name=toto\n#BB_LUA GBF use_persistent Name=other"
            local code, message = call("setup")
            if release < "23.02" then
                assert.equal(slurm.ERROR, code)
                assert.matches("No such file", message)
                return
            end
            assert.equal(slurm.SUCCESS, code)
            assert.same({
                { line = 2, type = "GBF", verb = "use_persistent", args = { Name = "toto" } },
                { line = 3, type = "GBF", verb = "use_persistent", args = { Name = "other" } },
            }, server.requests()[1].directives)
            support.write(run_dir .. "/it's/path", "") -- its folder is there
        end)

        it("setup of a script without directives needs nobody", function()
            support.write(job.script, "#!/bin/sh\nsrun x\n")
            assert.equal(slurm.SUCCESS, (call("setup")))
        end)

        it("setup of a script that was broken since gives one line", function()
            support.write(job.script, "#!/bin/sh\n#BB_LUA FOO\n")
            local code, message = call("setup")
            assert.equal(slurm.ERROR, code)
            assert.is_nil(message:find("\n"))
        end)

        it("each asking hook passes a refusal on as one line", function()
            start({ ok = false, message = "no buffer toto\nof yours; see scontrol show bbstat" })
            for _, hook in ipairs(ASKING) do
                local code, message = call(hook)
                assert.equal(slurm.ERROR, code)
                assert.equal("no buffer toto of yours; see scontrol show bbstat", message)
            end
        end)

        it("each asking hook asks with its own verb", function()
            start({ ok = true, state = "ready" })
            for index, hook in ipairs(ASKING) do
                local code, _, count = call(hook)
                assert.equal(slurm.SUCCESS, code)
                assert.equal(1, count)
                assert.equal(hook, server.requests()[index].verb)
            end
        end)

        it("the job's nodes are told where Slurm knows them", function()
            start({ ok = true, state = "ready" })
            call("pre_run")
            local nodes = server.requests()[1].nodes
            assert.equal(release >= "23.02" and "cn[1-2]" or require("cjson").null, nodes)
        end)

        it("teardown needs no script and says whether to hurry", function()
            start({ ok = true })
            job.script = run_dir .. "/gone"
            assert.equal(slurm.SUCCESS, (call("job_teardown")))
            job.hurry = "true"
            assert.equal(slurm.SUCCESS, (call("job_teardown")))
            assert.is_false(server.requests()[1].hurry)
            assert.is_true(server.requests()[2].hurry)
        end)

        it("moving data is waited for in the hook, or by Slurm", function()
            start({ ok = true, state = "wait", reason = "Waiting" }, { ok = true, state = "ready" })
            for _, hook in ipairs(polls and { "data_in" } or { "data_in", "data_out" }) do
                local code, _, count = call(hook)
                assert.equal(slurm.SUCCESS, code)
                assert.equal(1, count)
            end
            local requests = server.requests()
            assert.equal(polls and 1 or 3, #requests)
            assert.equal(polls and 0 or 25, requests[1].wait)
        end)

        it("get_status is the ready file to the letter", function()
            local text = "FA: BB Type=GBF bbid=1 Name=100% State=staged-in\nFA: Total storage : 0\n"
            support.write(run_dir .. "/bbstat", text)
            local code, answer = call("get_status")
            assert.equal(slurm.SUCCESS, code)
            assert.equal(text, answer)
        end)

        it("get_status takes the chunk, and the text if the chunk is of another Lua or cut off", function()
            local text = "FA: BB Type=GBF bbid=1 Name=100%\0]] State=staged-in\n"
            support.write(run_dir .. "/chunk.lua", string.format("return %q", text))
            local chunk = string.dump((loadfile(run_dir .. "/chunk.lua")))
            support.write(run_dir .. "/bbstat", "FA: the text itself\n")
            for content, expected in pairs({
                [chunk] = text, [chunk:sub(1, 4) .. "\1" .. chunk:sub(6)] = "FA: the text itself\n",
                [chunk:sub(1, -20)] = "FA: the text itself\n",
            }) do
                support.write(run_dir .. "/bbstat.luac", content)
                local code, answer = call("get_status")
                assert.equal(slurm.SUCCESS, code)
                assert.equal(expected, answer)
            end
        end)

        it("get_status without a file is one line that is no buffer", function()
            for _ = 1, 2 do
                local code, answer = call("get_status")
                assert.equal(slurm.SUCCESS, code)
                assert.matches("^FA: no state of burst buffers: [^\n]+\n$", answer)
                support.write(run_dir .. "/bbstat", "")
            end
        end)

        it("paths copies the job's environment", function()
            os.execute("mkdir " .. run_dir .. "/jobs")
            support.write(run_dir .. "/jobs/42.env", "EBB_TOTO=/home/a/m\nSLURM_EBB_TICKET=v1.x.y\n")
            local code, _, count = call("paths")
            assert.equal(slurm.SUCCESS, code)
            assert.equal(1, count)
            assert.equal("EBB_TOTO=/home/a/m\nSLURM_EBB_TICKET=v1.x.y\n", support.read(job.path_file))
            assert.same({}, fake.log)
        end)

        it("paths never fails, it logs", function()
            os.execute("mkdir " .. run_dir .. "/jobs")
            support.write(run_dir .. "/jobs/42.env", "EBB_TOTO=/home/a/m\n")
            for _, broken in ipairs({ { id = "../x" }, { id = "42", path_file = "/no/%s/such" } }) do
                broken.path_file = broken.path_file or job.path_file
                local code, _, count = support.call(release, "paths", broken)
                assert.equal(slurm.SUCCESS, code)
                assert.equal(1, count)
            end
            assert.equal(2, #fake.log)
            assert.matches("job 42 gets no environment", fake.log[2])
        end)

        it("paths has nothing to say of a job that uses no buffer", function()
            assert.equal(slurm.SUCCESS, (call("paths")))
            assert.same({}, fake.log)
        end)

        it("an error inside Ebb reaches the user as a line", function()
            local function broken() error("one\ntwo") end
            package.loaded["ebb.client"] = { finish = broken, poll = broken }
            package.loaded["ebb.submission"] = { check = function() error({}) end, directives = broken }
            for _, hook in ipairs({ "setup", "data_in", "post_run", "job_teardown", "job_process", "test_data_in" }) do
                local code, message = call(hook)
                assert.equal(slurm.ERROR, code)
                assert.matches("^internal error of Ebb: [^\n]+$", message)
            end
        end)

        it("nothing is printed, and only hooks inside slurmctld log", function()
            local out, say = io.write, print
            local printed = 0
            io.write = function() printed = printed + 1 end -- luacheck: ignore 122
            print = function() printed = printed + 1 end -- luacheck: ignore 121
            start({ ok = false, message = "no" })
            for _, hook in ipairs({ "setup", "data_in", "test_data_in", "pre_run", "post_run", "data_out",
                "test_data_out", "job_teardown", "get_status" }) do
                call(hook)
            end
            io.write, print = out, say -- luacheck: ignore 121 122
            assert.equal(0, printed)
            assert.same({}, fake.log)
        end)

        if polls then
            it("Slurm asks again while data moves", function()
                for _, hook in ipairs({ "test_data_in", "test_data_out" }) do
                    start({ ok = true, state = "wait" }, { ok = true, state = "ready" }, { ok = false, message = "no" })
                    local code, answer = call(hook)
                    assert.equal(slurm.SUCCESS, code)
                    assert.equal("BUSY", answer)
                    local count
                    code, _, count = call(hook)
                    assert.equal(slurm.SUCCESS, code)
                    assert.equal(1, count)
                    code, answer = call(hook)
                    assert.equal(slurm.ERROR, code)
                    assert.equal("no", answer)
                    assert.equal(hook:sub(6), server.requests()[1].verb)
                    server.stop()
                end
            end)

            it("an orchestrator that is away is busy, not an error", function()
                assert.equal(slurm.SUCCESS, (call("data_in")))
                local code, answer = call("test_data_in")
                assert.equal(slurm.SUCCESS, code)
                assert.equal("BUSY", answer)
            end)
        end
    end)
end

describe("the hooks", function()
    it("find their modules beside themselves, then where packages put them", function()
        support.load("22.05")
        assert.equal("slurm_bb_lua/?.lua;/usr/share/ebb/lua/?.lua;", support.path_of_hooks:sub(1, 44))
    end)

    it("are short enough to be read at a glance", function()
        local length
        for line in io.lines("slurm_bb_lua/burst_buffer.lua") do
            if line:find("^slurm_bb_") or line:find("^function") or line:find("^local function") then
                length = 0
            end
            length = length and length + 1
            if line:find("^end") then
                assert.is_true(length <= 15, line)
                length = nil
            end
        end
    end)
end)
