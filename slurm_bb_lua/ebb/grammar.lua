--- What users can write behind #BB_LUA, as data. A new service type is one more entry here.
--
-- Of a key:
--   key       as the contract spells it; users may write it in any case
--   kind      which check of ebb.values it must pass
--   required  must be given
--   default   filled in when it is not given
--   values    (enum) the accepted words; `why` tells a user why there are no others
--   min, max  (count: number; size: bytes) the accepted range
--   multiple  (size: bytes) what it must be a multiple of
--   most      (mountpoints) how many there may be
--   directory (dataset) names a directory, not a file
--   hestia    (dataset) "optional" or "required": whether HESTIA@ may or must stand in front
-- and what rules that look beyond one directive do with it:
--   mount     where it is mounted: two buffers of one script must not mount one over the other
--   saved     two buffers of one script must not be saved to the same place
--   fits      the name of the total in the capacity file that bounds it
--   flavor    names a flavor of the capacity file
--   nodes     how many datanodes; bounded by those that can hold the flavor

local grammar = {}

local MIB = 1024 ^ 2
-- The smallest file system that mkfs.xfs makes.
local SMALLEST_FILE_SYSTEM = 300 * MIB

-- What a client of an SBB can talk to.
local MOST_SERVERS = 64

local NAME = { key = "Name", kind = "name", required = true }
local SIZE = {
    key = "StorageSize",
    kind = "size",
    required = true,
    min = SMALLEST_FILE_SYSTEM,
    fits = "LargestStorageSize",
}
local PATH = { key = "Path", kind = "mountpoint", required = true, mount = true }
local GANESHA_ONLY = "with FSType=ganesha one server serves both data and metadata"

grammar.types = {
    {
        name = "SBB",
        create = {
            NAME,
            { key = "Flavor", kind = "name", required = true, flavor = true },
            { key = "Targets", kind = "mountpoints", required = true, most = 64, mount = true },
            { key = "Datanodes", kind = "count", default = "1", min = 1, max = MOST_SERVERS, nodes = true },
            { key = "Sync", kind = "enum", values = { "servers", "target" }, default = "servers" },
            { key = "StripeSize", kind = "size", default = "1048576", multiple = 64 * 1024 },
        },
    },
    {
        name = "GBF",
        create = {
            NAME,
            SIZE,
            PATH,
            { key = "FSType", kind = "enum", values = { "ganesha" }, required = true },
            { key = "MetaDataServers", kind = "enum", values = { "0" }, default = "0", why = GANESHA_ONLY },
            { key = "StorageDataServers", kind = "enum", values = { "1" }, default = "1", why = GANESHA_ONLY },
            { key = "data_dst", kind = "dataset", hestia = "optional", saved = true },
            { key = "data_src", kind = "dataset", hestia = "optional" },
        },
    },
    {
        name = "DASI",
        create = {
            NAME,
            SIZE,
            { key = "DasiConfig", kind = "path", required = true },
            {
                key = "data_dst",
                kind = "dataset",
                hestia = "optional",
                directory = true,
                required = true,
                saved = true,
            },
            { key = "data_src", kind = "dataset", hestia = "optional", directory = true },
        },
    },
    {
        name = "KVSNS",
        create = {
            NAME,
            SIZE,
            PATH,
            { key = "data_dst", kind = "dataset", hestia = "required", required = true, saved = true },
            { key = "data_src", kind = "dataset", hestia = "required" },
        },
    },
}

local USE = { NAME }
local DESTROY = { NAME, { key = "Discard", kind = "enum", values = { "yes", "no" }, default = "no" } }

--- The verbs, each with the keys it takes for a type. Used and destroyed buffers have their own type already.
grammar.verbs = {
    { name = "create_persistent", keys = function(type_) return type_.create end },
    { name = "use_persistent", keys = function() return USE end },
    { name = "destroy_persistent", keys = function() return DESTROY end },
}

--- The keys of what a directive creates; none for one that creates nothing.
function grammar.created(directive)
    for _, type_ in ipairs(grammar.types) do
        if type_.name == directive.type and directive.verb == "create_persistent" then
            return type_.create
        end
    end
    return {}
end

--- Never a mountpoint, nor anything below: a setuid program in the job's namespace would read the user's files there.
grammar.system_directories = {
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root", "/run", "/sbin", "/sys",
    "/usr", "/var",
}

return grammar
