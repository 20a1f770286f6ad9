local HOOK = [[
package.path = "slurm_bb_lua/?.lua;" .. package.path
require("ebb.inherited").close()
print("closed")
io.stdout:flush()
io.read("*l")
]]

-- What a hook still has of the descriptors that tests/lua/pipes.py gives it.
local function kept(environment)
    local words = string.format("%s python3 tests/lua/pipes.py %s -e '%s'", environment, arg[-1], HOOK)
    local pipe = io.popen(words)
    local line = pipe:read("*l")
    pipe:close()
    return line
end

describe("a hook", function()
    it("closes the pipe of another one, and keeps its own and what does not block", function()
        assert.equal("20 23 24", kept(""))
    end)

    it("closes nothing where Slurm did", function()
        assert.equal("20 21 22 23 24", kept("SLURM_SCRIPT_CONTEXT=burst_buffer.lua"))
    end)
end)
