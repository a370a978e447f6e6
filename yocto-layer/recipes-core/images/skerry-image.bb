SUMMARY = "A small image with Skerry, for boards that run Azure Container Apps documents"
DESCRIPTION = "Boots into an agent that waits for documents, or runs those that were flashed with it."
LICENSE = "Apache-2.0"

inherit core-image

IMAGE_FEATURES += "ssh-server-dropbear"
IMAGE_INSTALL:append = " packagegroup-skerry"
