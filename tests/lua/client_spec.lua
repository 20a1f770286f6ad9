local support = require("support")

describe("the client", function()
    local run_dir, client, server

    before_each(function()
        run_dir = support.run_dir()
        support.load("22.05")
        client = require("ebb.client")
    end)

    after_each(function()
        if server then
            server.stop()
            server = nil
        end
        support.remove(run_dir)
    end)

    it("waits for an orchestrator that starts later", function()
        server = support.orchestrator(run_dir, { { ok = true } }, 0.5)
        assert.is_true((client.finish("post_run", "42", {})))
        assert.equal(1, #server.requests())
    end)

    it("asks the same again when the connection breaks", function()
        server = support.orchestrator(run_dir, { false, false, { ok = true } })
        assert.is_true((client.finish("post_run", "42", {})))
        local requests = server.requests()
        assert.equal(3, #requests)
        assert.same(requests[1], requests[3])
    end)

    it("asks again when an answer breaks off in the middle", function()
        server = support.orchestrator(run_dir, { '{"ok":fal', { ok = true } })
        assert.is_true((client.finish("post_run", "42", {})))
    end)

    it("waits for an answer longer than for a connection", function()
        client.connect_timeout = 0.2
        server = support.orchestrator(run_dir, { 0.6 })
        assert.is_true((client.finish("pre_run", "42", {})))
        assert.equal(1, #server.requests())
    end)

    it("asks until the answer is final, with a pause if the orchestrator does not hold it", function()
        server = support.orchestrator(run_dir, { { ok = true, state = "wait" }, { ok = true, state = "ready" } })
        local began = require("socket").gettime()
        assert.is_true((client.finish("data_in", "42", { wait = 25 })))
        assert.is_true(require("socket").gettime() - began >= 1)
        assert.equal(2, #server.requests())
    end)

    it("gives up at the deadline and says what it tried", function()
        local done, message = client.finish("post_run", "42", {}, 0.3)
        assert.is_nil(done)
        assert.matches(run_dir .. "/orchestrator.sock (", message, 1, true)
        assert.matches("tell your administrator", message)
        assert.is_nil(message:find("\n"))
    end)

    it("gives up at the deadline with the reason of the waiting", function()
        server = support.orchestrator(run_dir, { { ok = true, state = "wait", reason = "Waiting for\nGBF Resources" } })
        local done, message = client.finish("pre_run", "42", { wait = 25 }, 1.2)
        assert.is_nil(done)
        assert.matches("^still not ready after 1 s: Waiting for GBF Resources$", message)
    end)

    it("takes nonsense for an error, not for an answer", function()
        for _, nonsense in ipairs({ "hello\n", "[]\n", "\n", "{}\n", '{"ok":"yes"}\n', "null\n", "7\n" }) do
            server = support.orchestrator(run_dir, { nonsense })
            local done, message = client.finish("post_run", "42", {})
            assert.is_nil(done)
            assert.matches("makes no sense", message)
            server.stop()
        end
    end)

    it("has a reason for a refusal without one", function()
        for _, reply in ipairs({ { ok = false }, { ok = false, message = "" }, { ok = false, message = 7 } }) do
            server = support.orchestrator(run_dir, { reply })
            local done, message = client.finish("post_run", "42", {})
            assert.is_nil(done)
            assert.matches("gave no reason", message)
            server.stop()
        end
    end)

    it("keeps below Slurm's own time limits", function()
        for _, file in ipairs({ "burst_buffer.conf", "burst_buffer.conf.24.05" }) do
            local text = support.read("slurm_bb_lua/" .. file)
            local limit = function(key)
                return tonumber(text:match("\n" .. key .. "=(%d+)"))
            end
            for _, verb in ipairs({ "setup", "pre_run", "post_run", "job_teardown" }) do
                assert.is_true(client.deadlines[verb] < limit("OtherTimeout"))
            end
            assert.is_true(client.deadlines.data_in < limit("StageInTimeout"))
            assert.is_true(client.deadlines.data_out < limit("StageOutTimeout"))
        end
    end)
end)
