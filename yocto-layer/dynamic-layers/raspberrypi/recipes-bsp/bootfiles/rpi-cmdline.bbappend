# The firmware of a Raspberry Pi turns the memory controller off unless it is asked for.
# nooelint: oelint.vars.noncoreoverride,oelint.vars.mispell
CMDLINE:append = "${@bb.utils.contains('DISTRO_FEATURES', 'virtualization', ' cgroup_enable=memory', '', d)}"
