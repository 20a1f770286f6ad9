-- Read by slurmctld's burst_buffer/lua plugin for every call. The hooks themselves are not configuration.
dofile("/usr/share/ebb/lua/burst_buffer.lua")
