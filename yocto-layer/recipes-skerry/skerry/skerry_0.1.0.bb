SUMMARY = "Runs Azure Container Apps documents on single-board Linux devices"
DESCRIPTION = "One agent that takes an app's document over MQTT and runs it on containerd."
SECTION = "console/network"
LICENSE = "Apache-2.0"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

DEPENDS = "protobuf-native"

# Rust 1.95 or later is needed; where the release of oe-core has an older one, a layer with a newer toolchain goes beside.
# The layer lies in the repository whose sources it builds.
SKERRY_ROOT = "${@os.path.abspath(d.getVar('THISDIR') + '/../../..')}"
SRC_URI = "\
    file://${SKERRY_ROOT}/Cargo.toml;subdir=skerry-${PV} \
    file://${SKERRY_ROOT}/Cargo.lock;subdir=skerry-${PV} \
    file://${SKERRY_ROOT}/LICENSE;subdir=skerry-${PV} \
    file://${SKERRY_ROOT}/agent;subdir=skerry-${PV} \
    file://${SKERRY_ROOT}/proto;subdir=skerry-${PV} \
    file://${SKERRY_ROOT}/tests;subdir=skerry-${PV} \
    file://${SKERRY_ROOT}/xtask;subdir=skerry-${PV} \
    file://${SKERRY_ROOT}/systemd;subdir=skerry-${PV} \
"
require ${BPN}-crates.inc

S = "${WORKDIR}/skerry-${PV}"

inherit cargo systemd useradd pkgconfig

CARGO_BUILD_FLAGS += "--package skerry"

SYSTEMD_SERVICE:${PN} = "skerry.service"
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system skerry"

do_install:append() {
    install -d ${D}${systemd_system_unitdir} ${D}${sysconfdir}/skerry/apps.d ${D}${datadir}/skerry/images
    install -m 0644 ${S}/systemd/skerry.service ${D}${systemd_system_unitdir}/skerry.service
}

# containerd and runc are in meta-virtualization; a board without that layer brings its own.
RRECOMMENDS:${PN} = "containerd runc nftables"
