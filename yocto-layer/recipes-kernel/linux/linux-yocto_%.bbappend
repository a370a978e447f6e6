require recipes-kernel/linux/skerry-kernel.inc
