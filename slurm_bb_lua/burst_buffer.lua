--- The hooks that Slurm's burst_buffer/lua plugin calls. For Slurm 22.05 to 26.05 and Lua 5.1 to 5.4.
--
-- Slurm reads this file anew for every call, in a fresh Lua state. Three kinds of hooks:
--   job_process, paths, pools  run inside slurmctld with locks held: they only read small local files
--   get_status                 holds the lock of all burst buffers: it only hands out a ready file
--   all others                 run in a process of their own: they ask the orchestrator and may wait
--
-- Arguments are text. Later releases append uid, gid and job_info; what is used here stands at the same place in all.
-- From 24.11 on a hook's stdout and stderr are its answer: nothing is printed, and only hooks inside slurmctld log.
-- Traps that shape this file: a nil second value is an error, an uncaught Lua error hides its text from the user, the
-- texts given to slurm.log_* are formats.

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
package.path = here .. "?.lua;/usr/share/ebb/lua/?.lua;" .. package.path

-- From 24.05 on Slurm calls test_data_in and test_data_out until they no longer say this.
local BUSY = slurm.SLURM_BB_BUSY

-- Makes a hook of a function that returns true, or "answer" and a text for Slurm, or nil and what to tell the user.
local function hook(body)
    return function(...)
        local ran, done, text = pcall(body, ...)
        if not ran then
            return slurm.ERROR, "internal error of Ebb: " .. (tostring(done):gsub("%c+", " "))
        elseif not done then
            return slurm.ERROR, text or "Ebb gives no reason; tell your administrator"
        elseif done == "answer" then
            return slurm.SUCCESS, text
        end
        return slurm.SUCCESS
    end
end

-- Asks the orchestrator until the answer is final.
local function finish(verb, job_id, fields)
    return require("ebb.client").finish(verb, job_id, fields or {})
end

-- Asks the orchestrator once; Slurm comes again.
local function poll(verb, job_id)
    local state, message = require("ebb.client").poll(verb, job_id)
    if state == "busy" then
        return "answer", BUSY
    end
    return state, message
end

-- Moves data: until it is done where Slurm cannot ask again, otherwise only begins it.
local function move(verb)
    return hook(function(job_id)
        if BUSY then
            return require("ebb.client").poll(verb, job_id)
        end
        return finish(verb, job_id, { wait = 25 })
    end)
end

--- At submission: refuses a script with errors, all of them in one message.
slurm_bb_job_process = hook(function(script)
    return require("ebb.submission").check(script)
end)

--- No pools: the orchestrator counts. Must never fail, or Slurm forgets its saved state.
function slurm_bb_pools()
    return slurm.SUCCESS
end

--- Tells the orchestrator what the job wants.
slurm_bb_setup = hook(function(job_id, uid, gid, _pool, _size, script, job_info)
    local merged = job_info and job_info.burst_buffer
    local directives, message = require("ebb.submission").directives(script, merged)
    if not directives then
        return nil, (message:gsub("\n", "; "))
    elseif #directives == 0 then
        return true
    end
    return finish("setup", job_id, { uid = tonumber(uid), gid = tonumber(gid), directives = directives })
end)

slurm_bb_data_in = move("data_in")

slurm_bb_test_data_in = hook(function(job_id)
    return poll("data_in", job_id)
end)

--- Only called for pools, of which there are none.
function slurm_bb_real_size()
    return slurm.SUCCESS
end

--- Gives the job its environment. Must never fail: the job would be stuck without a word.
function slurm_bb_paths(job_id, _script, path_file)
    local ran, done, why = pcall(function()
        return require("ebb.files").copy_environment(job_id, path_file)
    end)
    if not ran or not done then
        local text = string.format("ebb: job %s gets no environment: %s", tostring(job_id), tostring(why or done))
        pcall(slurm.log_error, (text:gsub("%%", "%%%%")))
    end
    return slurm.SUCCESS
end

--- Lets the job's nodes in. Slurm tells them from 23.02 on.
slurm_bb_pre_run = hook(function(job_id, _script, _uid, _gid, job_info)
    local nodes = job_info and job_info.nodes or require("ebb.client").null
    return finish("pre_run", job_id, { wait = 25, nodes = nodes })
end)

slurm_bb_post_run = hook(function(job_id)
    return finish("post_run", job_id)
end)

slurm_bb_data_out = move("data_out")

slurm_bb_test_data_out = hook(function(job_id)
    return poll("data_out", job_id)
end)

--- The job is over or will be staged again. The script may be gone.
slurm_bb_job_teardown = hook(function(job_id, _script, hurry)
    return finish("job_teardown", job_id, { hurry = hurry == "true" })
end)

--- The answer to `scontrol show bbstat`; arguments are ignored.
slurm_bb_get_status = hook(function()
    local text, why = require("ebb.files").bbstat()
    if not text or text == "" then
        text = "FA: no state of burst buffers: " .. (why or "the file is empty") .. "; is ebb-orchestrator running?\n"
    end
    return "answer", text
end)
