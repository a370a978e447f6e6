# nooelint: oelint.var.mandatoryvar.HOMEPAGE
SUMMARY = "Runs Azure Container Apps documents on single-board Linux devices"
DESCRIPTION = "One agent that takes an app's document over MQTT and runs it on containerd."
SECTION = "console/network"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

DEPENDS = "protobuf-native"

# Rust 1.95 or later is needed; where the release of oe-core has an older one, a layer with a newer toolchain goes beside.
require ${BPN}-crates.inc

# The layer lies in the repository whose sources it builds: they are fetched by relative names, and so lie side by side.
# nooelint: oelint.vars.fileextrapaths,oelint.vars.outofcontext
FILESEXTRAPATHS:prepend := "${THISDIR}/../../..:"
SRC_URI += "\
    file://Cargo.toml;subdir=${BP} \
    file://Cargo.lock;subdir=${BP} \
    file://LICENSE;subdir=${BP} \
    file://agent;subdir=${BP} \
    file://proto;subdir=${BP} \
    file://tests;subdir=${BP} \
    file://xtask;subdir=${BP} \
    file://systemd;subdir=${BP} \
"

# Releases after scarthgap unpack into a folder of its own.
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}/${BP}"

inherit cargo systemd useradd pkgconfig

CARGO_BUILD_FLAGS += "--package skerry"

SYSTEMD_SERVICE:${PN} = "skerry.service"
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system skerry"

do_install:append() {
    install -d ${D}${systemd_system_unitdir} ${D}${sysconfdir}/skerry/apps.d ${D}${datadir}/skerry/images
    install -m 0644 ${S}/systemd/skerry.service ${D}${systemd_system_unitdir}/skerry.service
    install -d ${D}${nonarch_libdir}/tmpfiles.d
    install -m 0644 ${S}/systemd/skerry.tmpfiles ${D}${nonarch_libdir}/tmpfiles.d/skerry.conf
    install -m 0644 ${S}/systemd/agent.toml.example ${D}${sysconfdir}/skerry/agent.toml.example
}

FILES:${PN} += "${nonarch_libdir}/tmpfiles.d"

# nft is in meta-networking, containerd and runc are in meta-virtualization.
RDEPENDS:${PN} = "ca-certificates nftables virtual-containerd virtual-runc"
