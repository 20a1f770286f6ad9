"""The SPANK plugin `spank_ebb.so`: C hooks in front of one Python callback. See docs/spank.md."""
