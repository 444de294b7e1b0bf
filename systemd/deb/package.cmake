# One package, fcm, for the Debian that it is built on: `./bootstrap package`.
file(STRINGS /etc/os-release debian REGEX "^VERSION_ID=")
string(REGEX REPLACE "[^0-9]" "" debian "${debian}")

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME fcm)
set(FCM_MAINTAINER "the fcm authors <fcm@localhost.localdomain>" CACHE STRING "who distributes the package, with a mail address")
set(CPACK_PACKAGE_CONTACT ${FCM_MAINTAINER})
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "real Linux machines of one's own, in a second")
set(CPACK_PACKAGE_DESCRIPTION "fcmd is a daemon that owns microVMs: QEMU or Firecracker processes, each in
a jail of its own, with an address, a disk and, if wanted, a public HTTPS
name through Caddy. fcm is its client. VMs outlive the daemon and an upgrade
of this package, and come back after a reboot of the host.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGE_CHECKSUM SHA256)

# +deb12 < +deb13: an upgrade of Debian upgrades the package too.
set(CPACK_DEBIAN_PACKAGE_VERSION ${PROJECT_VERSION}+deb${debian})
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
# QEMU 7.2 is the oldest that the tests have seen.
set(CPACK_DEBIAN_PACKAGE_DEPENDS "systemd, init-system-helpers (>= 1.54), qemu-system-x86 (>= 1:7.2), qemu-system-data, e2fsprogs, openssh-client")
# What `fcm image build` runs, and the web server of exposed VMs.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "caddy, mmdebstrap, cpio, busybox-static, kmod, lz4, uidmap, xz-utils, zstd")
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "dropbear-bin")
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
foreach(script postinst prerm postrm conffiles)
  list(APPEND CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${CMAKE_CURRENT_SOURCE_DIR}/deb/${script})
endforeach()

# What Debian wants to find below /usr/share/doc.
set(changes ${CMAKE_CURRENT_BINARY_DIR}/changelog)
string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE ${changes} "fcm (${CPACK_DEBIAN_PACKAGE_VERSION}) stable; urgency=medium\n\n  * Release ${PROJECT_VERSION}: CHANGELOG.md of the project tells what is new.\n\n -- ${CPACK_PACKAGE_CONTACT}  ${date}\n")
find_program(GZIP gzip REQUIRED)
execute_process(COMMAND ${GZIP} -9nf ${changes} COMMAND_ERROR_IS_FATAL ANY)
file(READ ${CMAKE_SOURCE_DIR}/LICENSE license)
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/copyright "This is fcm, packaged by its authors.\n\n${license}")
install(FILES ${changes}.gz ${CMAKE_CURRENT_BINARY_DIR}/copyright DESTINATION share/doc/fcm)
install(FILES deb/lintian-overrides DESTINATION share/lintian/overrides RENAME fcm)

include(CPack)
