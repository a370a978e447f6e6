SUMMARY = "Skerry and what it runs on"
DESCRIPTION = "The agent, containerd, runc, nftables, and the authorities that registries and brokers are checked against."
SECTION = "base"

inherit packagegroup

RDEPENDS:${PN} = "\
    ca-certificates \
    nftables \
    skerry \
    virtual-containerd \
    virtual-runc \
"
# What a kernel may have as modules: without these there is no network for containers.
RRECOMMENDS:${PN} = "\
    kernel-module-bridge \
    kernel-module-nf-conntrack \
    kernel-module-nf-nat \
    kernel-module-nf-tables \
    kernel-module-nft-chain-nat \
    kernel-module-nft-ct \
    kernel-module-nft-masq \
    kernel-module-nft-redir \
    kernel-module-nft-reject \
    kernel-module-overlay \
    kernel-module-veth \
"
