--- The small files that the orchestrator keeps ready in its run directory (docs/interfaces.md).

local files = {}

local NO_SUCH_FILE = 2 -- ENOENT

--- /run/ebb; the variable is for tests, a user's environment never gets here.
function files.run_dir()
    return os.getenv("EBB_RUN_DIR") or "/run/ebb"
end

--- The content of a file of the run directory.
-- @return the text, or nil, why (with the path) and the error's number
function files.read(name)
    local file, why, code = io.open(files.run_dir() .. "/" .. name, "rb")
    if not file then
        return nil, why, code
    end
    local text = file:read("*a")
    file:close()
    return text
end

--- What get_status hands out, megabytes while all burst buffers are locked.
-- Lua 5.1 copies each byte many times when it reads them; as the constant of a precompiled chunk it does not. Where
-- there is no chunk, or it is another Lua's, the text itself is read.
-- @return the text, or nil and why
function files.bbstat()
    local chunk = loadfile(files.run_dir() .. "/bbstat.luac", "b")
    if chunk then
        return chunk()
    end
    return files.read("bbstat")
end

--- Writes a job's environment into the file that Slurm reads it from.
-- @return true, or nil and why
function files.copy_environment(job_id, path_file)
    local text, why, code = files.read("jobs/" .. tostring(job_id):match("^%d+$") .. ".env")
    if code == NO_SUCH_FILE then
        return true -- a job that uses no buffer: it creates or destroys
    elseif not text then
        return nil, why
    end
    local file
    file, why = io.open(path_file, "wb")
    if not file then
        return nil, why
    end
    local written
    written, why = file:write(text)
    local closed, why_not = file:close()
    return written and closed, why or why_not
end

--- Makes the folder that a file is to be in, if it is not there. Not for hooks inside slurmctld: it starts a command.
function files.make_folder_of(path)
    local folder = path:match("^(/.+)/[^/]+$")
    if folder then
        os.execute("mkdir -p -m 700 -- '" .. folder:gsub("'", "'\\''") .. "' >/dev/null 2>&1")
    end
end

return files
