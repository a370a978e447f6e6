SUMMARY = "Skerry and what it runs on"
DESCRIPTION = "The agent, containerd, runc, nftables, and the authorities that registries and brokers are checked against."
SECTION = "base"

# Kernel modules bear the kernel's machine.
PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit packagegroup

# containerd, runc and nftables are in other layers: better said here than by a package that nothing provides.
# nooelint: oelint.task.noanonpython
python () {
    present = d.getVar("BBFILE_COLLECTIONS").split()
    missing = [name for name in d.getVar("SKERRY_LAYERS").split() if name not in present]
    if missing:
        raise bb.parse.SkipRecipe("it wants the layers %s in bblayers.conf" % " ".join(missing))
}
SKERRY_LAYERS = "openembedded-layer networking-layer virtualization-layer"

RDEPENDS:${PN} = "\
    ca-certificates \
    nftables \
    skerry \
    skerry-board \
    virtual-containerd \
    virtual-runc \
"
# What a kernel may have as modules: without these there is no network for containers, and no layer of an image.
RRECOMMENDS:${PN} = "\
    kernel-module-bridge \
    kernel-module-nf-conntrack \
    kernel-module-nf-nat \
    kernel-module-nf-tables \
    kernel-module-nft-chain-nat \
    kernel-module-nft-ct \
    kernel-module-nft-masq \
    kernel-module-nft-nat \
    kernel-module-nft-redir \
    kernel-module-nft-reject \
    kernel-module-nft-reject-inet \
    kernel-module-overlay \
    kernel-module-veth \
"
