--- Makes a stream socket of the unix domain.
-- LuaSocket 3.1 gives a table of constructors, older ones the constructor itself.

local unix = require("socket.unix")

return type(unix) == "table" and unix.stream or unix
