--- What the specs share: scripts from text, Slurm as each release presents itself, an orchestrator to talk to.

local cjson = require("cjson")

local support = {}

support.releases = { "22.05", "23.02", "24.05", "24.11", "26.05" }

local getenv = os.getenv
local made = {}

--- A new run directory, which the code under test uses from now on.
function support.run_dir()
    local pipe = io.popen("mktemp -d")
    local path = pipe:read("*l")
    pipe:close()
    made[path] = true
    os.getenv = function(name) -- luacheck: ignore 122
        return name == "EBB_RUN_DIR" and path or getenv(name)
    end
    return path
end

--- Ends what run_dir began.
function support.remove(path)
    os.getenv = getenv -- luacheck: ignore 122
    assert(made[path], "not one of run_dir's")
    os.execute("rm -rf " .. path)
    made[path] = nil
end

function support.write(path, text)
    local file = assert(io.open(path, "wb"))
    file:write(text)
    file:close()
    return path
end

function support.read(path)
    local file = assert(io.open(path, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

--- Waits until a file is there.
function support.wait_for(path)
    local socket = require("socket")
    local deadline = socket.gettime() + 10
    while not os.rename(path, path) do
        assert(socket.gettime() < deadline, path .. " does not appear")
        socket.sleep(0.01)
    end
end

--- Text that can be read as a file can; counts what was read.
function support.script(text)
    return {
        taken = 0,
        read = function(self, bytes)
            local part = text:sub(self.taken + 1, self.taken + bytes)
            self.taken = self.taken + #part
            return part ~= "" and part or nil
        end,
    }
end

--- The directives of such a text, and what is wrong with them.
function support.directives(script)
    local entries, errors = require("ebb.header").read(script)
    return require("ebb.directives").check(entries, errors), errors
end

-- Slurm formats what it is given, and refuses nil.
local function logger(log)
    return function(...)
        for index = 1, select("#", ...) do
            assert(select(index, ...) ~= nil, "nil in a log call")
        end
        log[#log + 1] = string.format(...)
    end
end

local function slurm_table(release)
    local log = {}
    local fake = { SUCCESS = 0, ERROR = -1, FAILURE = -1, log = log }
    for _, level in ipairs({ "error", "info", "verbose", "debug" }) do
        fake["log_" .. level] = logger(log)
    end
    if release == "23.02" or release == "24.05" then
        fake.job_info_to_string = function() return "" end
    end
    if release >= "24.05" then
        fake.SLURM_BB_BUSY = "BUSY"
    end
    return fake
end

--- Loads the hooks as that release does: a fresh read of everything.
-- @return Slurm's table; `log` in it lists what was logged
function support.load(release)
    for name in pairs(package.loaded) do
        if name:find("^ebb%.") then
            package.loaded[name] = nil
        end
    end
    slurm = slurm_table(release)
    local path = package.path
    dofile("slurm_bb_lua/burst_buffer.lua")
    support.path_of_hooks, package.path = package.path, path
    return slurm
end

-- A job_info that can only be read, as Slurm's.
local function job_info(job)
    return setmetatable({}, {
        __index = { nodes = job.nodes, burst_buffer = job.burst_buffer, account = "project", work_dir = "/home/alice" },
        __newindex = function() error("job_info is read-only") end,
    })
end

--- Calls a hook with the arguments that the release passes.
-- @return the values, and how many there were (a nil second value is an error for Slurm)
function support.call(release, hook, job)
    local old = release < "23.02"
    local info = not old and job_info(job) or nil
    local function with_user(...)
        local list = { ... }
        if not old then
            list[#list + 1], list[#list + 2] = "1000", "1000"
        end
        return list
    end
    local id, script = job.id or "42", job.script or "/nonexistent/script"
    local arguments
    if hook == "job_process" then
        arguments = with_user(script)
    elseif hook == "setup" then
        arguments = { id, "1000", "1000", "(null)", "0", script }
    elseif hook == "paths" then
        arguments = with_user(id, script, job.path_file)
    elseif hook == "job_teardown" then
        arguments, info = with_user(id, script, job.hurry or "false"), nil
    elseif hook == "get_status" then
        arguments, info = old and { "anything" } or { "1000", "1000", "anything" }, nil
    elseif hook == "real_size" then
        arguments = with_user(id)
    elseif hook == "pools" then
        arguments, info = {}, nil
    else
        arguments = with_user(id, script)
    end
    arguments[#arguments + 1] = info
    local function count(...)
        return { n = select("#", ...), ... }
    end
    local result = count(_G["slurm_bb_" .. hook]((table.unpack or unpack)(arguments))) -- luacheck: ignore 143 113
    return result[1], result[2], result.n
end

local function quoted(text)
    return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- Runs `work` and returns how many thousand instructions it took: the same on every machine, however busy.
function support.thousands(work)
    local count = 0
    debug.sethook(function() count = count + 1 end, "", 1000)
    local done, why = pcall(work)
    debug.sethook()
    assert(done, why)
    return count
end

--- Starts an orchestrator in a run directory; `plan` lists replies (tables, text as it is, or false to break off).
-- @param delay seconds until it listens
-- @return an object with requests() and stop()
function support.orchestrator(run_dir, plan, delay)
    local steps = {}
    for index, step in ipairs(plan) do
        steps[index] = type(step) == "table" and cjson.encode(step) .. "\n" or step or cjson.null
    end
    local log = run_dir .. "/requests"
    support.write(log, "")
    local command = table.concat({ "exec /usr/bin/python3 tests/lua/orchestrator.py",
        quoted(run_dir .. "/orchestrator.sock"), quoted(log), quoted(cjson.encode(steps)), tostring(delay or 0) }, " ")
    local pipe = assert(io.popen(command, "w"))
    if not delay then
        support.wait_for(run_dir .. "/orchestrator.sock")
    end
    return {
        requests = function()
            local list = {}
            for line in io.lines(log) do
                list[#list + 1] = cjson.decode(line)
            end
            return list
        end,
        stop = function() -- may be called twice
            if io.type(pipe) == "file" then
                pipe:close()
            end
        end,
    }
end

return support
