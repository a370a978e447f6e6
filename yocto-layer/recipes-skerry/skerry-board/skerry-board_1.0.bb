# nooelint: oelint.var.mandatoryvar.HOMEPAGE
SUMMARY = "What a board runs: configuration, documents and images of apps"
DESCRIPTION = "Puts what local.conf names to the places where the agent looks when it starts: no network is needed then."
SECTION = "base"
LICENSE = "Apache-2.0"
# Nothing is fetched that has a licence of its own.
# nooelint: oelint.var.licenseremotefile
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10"

# Absolute paths of files, set in local.conf or by a bbappend; each may be empty.
# SKERRY_CONFIG  the agent's configuration, /etc/skerry/agent.toml
# SKERRY_APPS    documents (*.yaml), /etc/skerry/apps.d
# SKERRY_IMAGES  archives of images (*.tar, as `skopeo copy` and `docker save` write them), /usr/share/skerry/images
SKERRY_CONFIG ?= ""
SKERRY_APPS ?= ""
SKERRY_IMAGES ?= ""

# By file:// a change of one of them is seen; archives stay whole.
# nooelint: oelint.vars.mispell.unknown
SKERRY_FILES = "${SKERRY_CONFIG} ${SKERRY_APPS} ${SKERRY_IMAGES}"
SRC_URI = "${@' '.join('file://%s;unpack=0' % file for file in d.getVar('SKERRY_FILES').split())}"

# There is nothing to build, and nothing in it depends on a processor but what is within the archives.
INHIBIT_DEFAULT_DEPS = "1"
PACKAGE_ARCH = "${MACHINE_ARCH}"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -d ${D}${sysconfdir}/skerry/apps.d ${D}${datadir}/skerry/images
    for file in ${SKERRY_CONFIG}; do
        install -m 0644 "$file" ${D}${sysconfdir}/skerry/agent.toml
    done
    for file in ${SKERRY_APPS}; do
        install -m 0644 "$file" ${D}${sysconfdir}/skerry/apps.d/
    done
    for file in ${SKERRY_IMAGES}; do
        install -m 0644 "$file" ${D}${datadir}/skerry/images/
    done
}

FILES:${PN} += "${datadir}/skerry"
CONFFILES:${PN} = "${@'${sysconfdir}/skerry/agent.toml' if d.getVar('SKERRY_CONFIG') else ''}"
ALLOW_EMPTY:${PN} = "1"
