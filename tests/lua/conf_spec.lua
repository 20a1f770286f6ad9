local support = require("support")

-- What every release from 22.05 on reads for this plugin; anything else is fatal to slurmctld.
local ALWAYS = { Directive = true, Flags = true, StageInTimeout = true, StageOutTimeout = true, OtherTimeout = true }

local function settings(file)
    local found = {}
    for line in (support.read("slurm_bb_lua/" .. file)):gmatch("[^\n]+") do
        if not line:find("^#") then
            local key, value = line:match("^(%w+)=(%S+)$")
            assert.is_string(key, line)
            found[key] = value
        end
    end
    return found
end

describe("burst_buffer.conf", function()
    it("has only keys that its releases know", function()
        for key in pairs(settings("burst_buffer.conf")) do
            assert.is_true(ALWAYS[key], key)
        end
        for key in pairs(settings("burst_buffer.conf.24.05")) do
            assert.is_true(ALWAYS[key] or key == "PollInterval", key)
        end
    end)

    it("tears failed jobs down, and finds our directives", function()
        for _, file in ipairs({ "burst_buffer.conf", "burst_buffer.conf.24.05" }) do
            assert.equal("TeardownFailure", settings(file).Flags)
            assert.equal("BB_LUA", settings(file).Directive)
        end
    end)
end)
