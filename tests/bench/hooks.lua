-- Times a hook as slurmctld calls it: a fresh read of burst_buffer.lua and of its modules for every call.
-- Arguments: folder of burst_buffer.lua, hook, number of calls, arguments of the hook.
-- Prints a line for each call: seconds of the whole call, seconds of the hook alone.

local folder, hook, calls = arg[1], arg[2], tonumber(arg[3])
local hook_arguments = { select(4, unpack(arg)) }
local clock = require("socket").gettime

local function ignore() end

slurm = { -- luacheck: ignore 111 121
    SUCCESS = 0, ERROR = -1, FAILURE = -1,
    log_error = ignore, log_info = ignore, log_verbose = ignore, log_debug = ignore,
}

local lua_path = package.path

for _ = 1, calls do
    for name in pairs(package.loaded) do
        if name:find("^ebb%.") then
            package.loaded[name] = nil
        end
    end
    package.path = lua_path
    collectgarbage()
    local start = clock()
    dofile(folder .. "/burst_buffer.lua")
    local loaded = clock()
    local code, text = _G["slurm_bb_" .. hook](unpack(hook_arguments))
    local stop = clock()
    assert(code == nil or code == slurm.SUCCESS, "the hook refused: " .. tostring(text))
    print(string.format("%.9f %.9f", stop - start, stop - loaded))
end
