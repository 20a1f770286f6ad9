"""Texts of job scripts, as users write them."""


def script(*directives: str, body: str = "srun hostname") -> str:
    """A batch script with `#BB_LUA` lines."""
    return "\n".join(["#!/bin/bash", *(f"#BB_LUA {directive}" for directive in directives), body, ""])


def create(name: str, size: str = "512MiB", path: str | None = None, **more: str) -> str:
    """A GBF create_persistent line; the mountpoint is ~alice/NAME unless given."""
    keys = " ".join(f"{key}={value}" for key, value in more.items())
    return (
        f"GBF create_persistent Name={name} StorageSize={size} Path={path or f'/home/alice/{name}'} FSType=ganesha "
        f"MetaDataServers=0 StorageDataServers=1 {keys}"
    ).rstrip()


def create_sbb(name: str, *targets: str, flavor: str = "small", datanodes: int = 2, **more: str) -> str:
    """An SBB create_persistent line; the target is ~alice/NAME unless some are given."""
    keys = " ".join(f"{key}={value}" for key, value in more.items())
    return (
        f"SBB create_persistent Name={name} Flavor={flavor} Targets={':'.join(targets or (f'/home/alice/{name}',))} "
        f"Datanodes={datanodes} {keys}"
    ).rstrip()


def use(name: str) -> str:
    """A use_persistent line."""
    return f"GBF use_persistent Name={name}"


def destroy(name: str, **more: str) -> str:
    """A destroy_persistent line."""
    return " ".join([f"GBF destroy_persistent Name={name}", *(f"{key}={value}" for key, value in more.items())])
