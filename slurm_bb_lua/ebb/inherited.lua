--- Closes what a hook's process holds of other hooks.
--
-- Before 24.11, slurmscriptd makes a pipe for a hook's answer, then forks, and does not exec: a hook that another
-- thread forks between the two has both ends of that pipe, too. The other hook's answer ends only when the last write
-- end is closed, so it would last as long as this one: get_status as long as somebody's stage-in, with all burst
-- buffers of slurmctld locked. Worse, before 23.02 pre_run is answered only when slurmctld is (the orchestrator asks it
-- for the job's nodes), and slurmctld waits for get_status.
--
-- A hook has only the write end of its own pipe, for Slurm closes the other: a pipe with both ends here is another's.

local new_stream = require("ebb.stream")

local inherited = {}

local O_ACCMODE, O_NONBLOCK_DIGIT = 4, 4 -- of the octal digits of open's flags: the last, and the fourth from behind

-- "r", "w" or nil: which end of a pipe the descriptor is; nil also for a pipe that does not block (no answer's pipe).
local function which_end(fd)
    local file = io.open("/proc/self/fdinfo/" .. fd, "r")
    local text = file and file:read("*a") or ""
    if file then
        file:close()
    end
    local flags = text:match("flags:%s*([0-7]+)")
    if not flags or math.floor((tonumber(flags:sub(-4, -4)) or 0) / O_NONBLOCK_DIGIT) % 2 == 1 then
        return nil
    end
    local access = tonumber(flags:sub(-1)) % O_ACCMODE
    return access == 0 and "r" or access == 1 and "w" or nil
end

-- Descriptors of pipes: { [inode] = { r = fd, w = fd } }. Only a command can list a folder for Lua; sh's parent is us.
local function pipes()
    local found = {}
    local listing = io.popen("exec 2>/dev/null; ls -l /proc/$PPID/fd")
    if not listing then
        return found
    end
    for line in listing:lines() do
        local fd, inode = line:match("(%d+) %-> pipe:%[(%d+)%]$")
        if fd then
            found[inode] = found[inode] or {}
            found[inode][which_end(fd) or "other"] = tonumber(fd)
        end
    end
    listing:close()
    return found
end

local function close(fd)
    local stream = new_stream()
    if stream then
        stream:close()
        stream:setfd(fd)
        stream:close()
    end
end

--- Closes the pipes of other hooks. For a hook in a process of its own, before it waits for anything.
function inherited.close()
    if os.getenv("SLURM_SCRIPT_CONTEXT") then
        return -- 24.11 and later: Slurm executed a new program, and closed everything
    end
    for _, ends in pairs(pipes()) do
        if ends.r and ends.w then
            close(ends.r)
            close(ends.w)
        end
    end
end

return inherited
