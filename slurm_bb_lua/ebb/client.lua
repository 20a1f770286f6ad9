--- Asks the orchestrator over its unix socket (docs/interfaces.md).
--
-- Only the hooks that run in a process of their own come here: they may wait. A socket that refuses or breaks is tried
-- again until the hook's deadline, because every verb is idempotent by job id: a restart of the orchestrator costs
-- nobody a job.

local cjson = require("cjson")
local socket = require("socket")
local files = require("ebb.files")
local inherited = require("ebb.inherited")
local new_stream = require("ebb.stream")

local client = {}

--- Seconds that each verb may take. Slurm kills the hook at OtherTimeout (300 s) or StageInTimeout and StageOutTimeout
-- (1 day): below that, so that the user gets a reason instead of "timeout".
client.deadlines = {
    setup = 240, pre_run = 240, post_run = 240, job_teardown = 240, data_in = 20 * 3600, data_out = 20 * 3600,
}

--- Seconds for a connection to be taken.
client.connect_timeout = 10

local ANSWER_TIMEOUT = 60 -- beyond the seconds that the orchestrator was asked to hold the answer
local FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5

local function socket_path()
    return files.run_dir() .. "/orchestrator.sock"
end

local function encode(verb, job_id, fields)
    local request = { v = 1, verb = verb, job_id = tonumber(job_id) }
    request.request_id = string.format("j%s-%s-%04x", job_id, verb, math.floor(socket.gettime() * 10000) % 65536)
    for key, value in pairs(fields) do
        request[key] = value
    end
    return cjson.encode(request) .. "\n"
end

-- One line there, one line back. Returns the line, or nil and why.
local function exchange(line, seconds)
    local stream, why = new_stream()
    if not stream then
        return nil, why
    end
    stream:settimeout(client.connect_timeout)
    local done, reply
    done, why = stream:connect(socket_path())
    if done then
        done, why = stream:send(line)
    end
    if done then
        -- Both: LuaSocket keeps the limit for one wait ("b", so far that of connecting) beside that for a whole call.
        stream:settimeout(seconds, "b")
        stream:settimeout(seconds, "t")
        reply, why = stream:receive("*l")
    end
    stream:close()
    return reply, why
end

local function decode(line)
    local ok, reply = pcall(cjson.decode, line)
    if not ok or type(reply) ~= "table" or type(reply.ok) ~= "boolean" then
        return { ok = false, message = "the Ebb orchestrator's answer makes no sense; tell your administrator" }
    end
    return reply
end

-- A field of a reply as text for a job's Reason: one line.
local function one_line(text)
    if type(text) ~= "string" or text == "" then
        return "the Ebb orchestrator gave no reason; tell your administrator"
    end
    return (text:gsub("%s*%c+%s*", " "))
end

local function unreachable(why, seconds)
    return string.format("the Ebb orchestrator does not answer on %s (%s), tried for %.0f s; tell your administrator",
        socket_path(), why, seconds)
end

local function final(reply)
    if reply.ok then
        return true
    end
    return nil, one_line(reply.message)
end

local function is_waiting(reply)
    return reply.ok and reply.state == "wait"
end

--- Sends a request again and again until the orchestrator takes it or the seconds are over.
-- @return the reply, or nil and a line for the user
function client.ask(verb, job_id, fields, seconds)
    local line = encode(verb, job_id, fields)
    local began, pause = socket.gettime(), FIRST_PAUSE
    while true do
        local left = seconds - (socket.gettime() - began)
        local text, why = exchange(line, math.max(1, math.min(left, (fields.wait or 0) + ANSWER_TIMEOUT)))
        if text then
            return decode(text)
        end
        left = seconds - (socket.gettime() - began)
        if left <= 0 then
            return nil, unreachable(why, seconds)
        end
        socket.sleep(math.min(pause, left))
        pause = math.min(pause * 2, LONGEST_PAUSE)
    end
end

--- Asks until the answer is final.
-- @param fields what goes with the verb; with `wait`, the orchestrator holds each answer for that many seconds
-- @param seconds how long in all; the verb's own deadline if nil
-- @return true, or nil and a line for the user
function client.finish(verb, job_id, fields, seconds)
    seconds = seconds or client.deadlines[verb]
    local began = socket.gettime()
    pcall(inherited.close)
    while true do
        local asked = socket.gettime()
        local reply, why = client.ask(verb, job_id, fields, seconds - (asked - began))
        if not reply then
            return nil, why
        end
        if not is_waiting(reply) then
            return final(reply)
        end
        if socket.gettime() - began >= seconds then
            return nil, string.format("still not ready after %.0f s: %s", seconds, one_line(reply.reason))
        end
        if socket.gettime() - asked < 1 then
            socket.sleep(1) -- it did not hold the answer: do not ask at full speed
        end
    end
end

--- Asks once, for hooks that Slurm repeats by itself.
-- @return true, "busy", or nil and a line for the user; an orchestrator out of reach counts as busy
function client.poll(verb, job_id)
    pcall(inherited.close)
    local text = exchange(encode(verb, job_id, { wait = 0 }), ANSWER_TIMEOUT)
    local reply = text and decode(text)
    if not reply or is_waiting(reply) then
        return "busy"
    end
    return final(reply)
end

--- What JSON calls null.
client.null = cjson.null

return client
