# shellcheck shell=bash disable=SC2034
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Debian's Linux for building a module and for booting a guest: headers, kernel
# image, and the few files of the source that the series is about.  Fetched
# once into the project's cache; nothing is installed.  For guest-driver/build
# and guest-driver/check.
#
#   . guest-driver/lib/kernel.sh
#   kernel_get SERIES   SERIES is 6.1, 6.12 or the newest that Debian has, 7.3; sets
#                       kernel_series, kernel_release, kernel_source,
#                       kernel_root (the image) and kernel_patches (what goes
#                       onto the driver, in order) and kernel_places (headers,
#                       for root_enter)
#   kernel_module DIR   builds DIR/drivers/block/virtio_blk.c there
#   kernel_next DIR     builds DIR/virtio_next.ko, virtio_blk.ko and fake_blk.ko,
#                       from a DIR with the second series as well
#   kernel_make DIR     builds whatever modules DIR/Kbuild names

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib/apt.sh
. "$here/../scripts/lib/apt.sh"
# shellcheck source=guest-driver/lib/root.sh
. "$here/lib/root.sh"

# The layout of the cache, and what is kept of the source
kernel_layout=3
kernel_files=(
    drivers/block/virtio_blk.c
    include/uapi/linux/virtio_blk.h
    scripts/checkpatch.pl
    scripts/spelling.txt
    scripts/const_structs.checkpatch
)

# What else the second series is about; it is for the newest kernel
recovery_files=(
    block/blk-core.c
    drivers/virtio/virtio.c
    drivers/virtio/virtio_pci_modern.c
    include/linux/blk-mq.h
    include/linux/virtio.h
    include/linux/virtio_config.h
)

# What goes onto the driver of any of these kernels but 6.1, which has a series of
# its own
kernel_patches=("$here"/fixes/000[1-9]*.patch "$here"/cancel/000[1-9]*.patch)
recovery_patches=("$here"/recovery/000[1-9]*.patch)

say() {
    echo "guest-driver: $*"
}

die() {
    echo "guest-driver: $*" >&2
    exit 1
}

# kernel_suite: the suite to take the kernel from; of 6.12, that which was built
# with this release's compiler.
kernel_suite() {
    case $kernel_series-$(apt_codename) in
    6.1-*) echo bookworm ;;
    6.12-bookworm) echo bookworm-backports ;;
    6.12-*) echo trixie ;;
    *) echo trixie-backports ;;
    esac
}

# kernel_is_foreign: does it take a newer compiler and C library?
kernel_is_foreign() {
    [ "$kernel_series" = 7.3 ]
}

# kernel_find SUITE: sets version and release to the newest source package of
# the suite and the release of its cloud kernel.
kernel_find() {
    local suite=$1 p
    version=$(apt_in "$suite" apt-cache show --no-all-versions \
                     "linux-source-$kernel_series" |
              sed -n 's/^Version: //p')
    [ -n "$version" ] || die "$suite has no linux-source-$kernel_series"
    release=
    for p in $(apt_in "$suite" apt-cache pkgnames \
                      "linux-headers-$kernel_series" |
               grep -- '-cloud-amd64$'); do
        if apt_in "$suite" apt-cache show "$p" |
           grep -xF "Version: $version" > /dev/null; then
            release=${p#linux-headers-}
        fi
    done
    [ -n "$release" ] ||
        die "$suite has no cloud kernel of version $version"
}

# kernel_fetch DIR: fills DIR.  A subshell, for its working directory.
kernel_fetch() (
    set -e
    suite=$(kernel_suite)
    kernel_find "$suite"
    # What sparse is tried with, which the headers leave out
    ! kernel_is_foreign ||
        kernel_files+=("${recovery_files[@]}" scripts/checker-valid.sh)
    abi=${release%-cloud-amd64}

    mkdir -p "$1/deb" "$1/root"
    cd "$1"
    packages=("linux-source-$kernel_series" "linux-headers-$release"
              "linux-headers-$abi-common")
    # The image is one package, or three; kbuild goes by release or by series
    all=$(apt_in "$suite" apt-cache pkgnames linux-)
    for p in {image,binary,modules,base}-"$release" \
             kbuild-{"$abi","$kernel_series"}; do
        p=linux-$p
        if grep -qxF "$p" <<< "$all"; then
            packages+=("$p")
        elif grep -qxF "$p-unsigned" <<< "$all"; then
            packages+=("$p-unsigned")
        fi
    done
    say "fetching Linux $release: source, headers, image (200 MB, once)"
    (cd deb
     apt_in "$suite" apt-get -q=2 download "${packages[@]/%/=$version}")

    say "unpacking it (half a minute, once)"
    for deb in deb/*.deb; do
        case $deb in
        */linux-source-*)
            dpkg --fsys-tarfile "$deb" |
                tar -xO "./usr/src/linux-source-$kernel_series.tar.xz" |
                tar -xJ --strip-components=1 --one-top-level=source \
                    "${kernel_files[@]/#/linux-source-$kernel_series/}"
            ;;
        *)
            dpkg -x "$deb" root
            ;;
        esac
    done
    rm -r deb
    # Only good for type information, for which pahole would be needed
    rm -f "root/usr/src/linux-headers-$release/vmlinux"
    ! kernel_is_foreign || cp source/scripts/checker-valid.sh \
        "root/usr/lib/linux-kbuild-$abi/scripts/"
    echo "$release" > release
)

# Sets kernel_*; fetches what is not in the cache.
kernel_get() {
    local dir kbuild makefile
    kernel_series=$1
    kernel_cache=$PROJECT_CACHE/linux-$kernel_series
    dir=$kernel_cache/$kernel_layout
    mkdir -p "$kernel_cache"
    exec {kernel_lock}> "$kernel_cache/lock"
    flock "$kernel_lock"
    if [ ! -e "$dir/release" ]; then
        rm -rf "$dir" "$dir.new"
        # Not in a condition, where bash forgets about set -e
        kernel_fetch "$dir.new"
        mv "$dir.new" "$dir"
    fi
    exec {kernel_lock}>&-
    kernel_release=$(< "$dir/release")
    kernel_source=$dir/source
    kernel_root=$dir/root
    kbuild=$(cd "$kernel_root" && echo usr/lib/linux-kbuild-*)
    kernel_places=("$kernel_root/usr/src:usr/src"
                   "$kernel_root/$kbuild:$kbuild")
    if kernel_is_foreign; then
        root_get trixie
        return
    fi
    kernel_build=$kernel_root/usr/src/linux-headers-$kernel_release
    [ "$kernel_series" != 6.1 ] || kernel_patches=("$here"/linux-6.1/00*.patch)
    # The package includes from /usr/src, where these headers are not
    makefile="include $kernel_root/usr/src/linux-headers-${kernel_release%-cloud-amd64}-common/Makefile"
    if [ "$(< "$kernel_build/Makefile")" != "$makefile" ]; then
        echo "$makefile" > "$kernel_build/Makefile"
    fi
}

# kernel_make DIR [MAKE-ARGUMENT...]: builds the modules that DIR/Kbuild names.
# Any warning is an error.
kernel_make() {
    local dir=$1
    shift
    if kernel_is_foreign; then
        kernel_make_foreign "$dir" "$@"
        return
    fi
    env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u KBUILD_OUTPUT -u ARCH \
        make -C "$kernel_build" M="$dir" W=1 KCFLAGS=-Werror "$@" modules
}

# The same in the private root.  Its sparse is older than the headers, and has
# to be told about one of their words.
kernel_make_foreign() {
    local dir=$1
    shift
    root_enter "$root" "$dir:work" "${kernel_places[@]}" -- sh -ec '
        headers=$1
        shift
        exec make -C "$headers" M=/work W=1 KCFLAGS=-Werror \
            CHECK="sparse -D__typeof_unqual__=__typeof__" "$@" modules' \
        sh "/usr/src/linux-headers-$kernel_release" "$@"
}

# kernel_module DIR [MAKE-ARGUMENT...]: builds DIR/virtio_blk.ko from
# DIR/drivers/block/virtio_blk.c, with DIR's own uapi header in front of that
# of the headers package.
kernel_module() {
    local dir=$1
    shift
    cat > "$dir/Kbuild" <<'EOF'
obj-m := virtio_blk.o
virtio_blk-y := drivers/block/virtio_blk.o
LINUXINCLUDE := -I$(src)/include/uapi $(LINUXINCLUDE)
EOF
    kernel_make "$dir" "$@"
}

# kernel_next DIR [MAKE-ARGUMENT...]: what the second series changes in virtio
# and in the block layer, which are built into the kernel, comes as a module
# beside them: virtio_next.ko has virtio.c, under other names and with a bus of
# its own, and the functions that are new in blk-core.c.  virtio_blk.ko and
# fake_blk.ko use that.
kernel_next() {
    local dir=$1
    shift
    sed 's/\.name  = "virtio"/.name  = "virtio-next"/' \
        "$dir/drivers/virtio/virtio.c" > "$dir/virtio_core.c"
    grep -q virtio-next "$dir/virtio_core.c" || die "virtio.c has changed"
    {
        echo '#include <linux/blkdev.h>'
        echo '#include <linux/blk-mq.h>'
        sed -n '/^void blk_mq_stop_timeouts/,/^EXPORT.*start_timeouts/p' \
            "$dir/block/blk-core.c"
    } > "$dir/blk_core.c"
    sed -n 's/^EXPORT_SYMBOL[A-Z_]*(\(.*\));/#define \1 next_\1/p' \
        "$dir/virtio_core.c" > "$dir/next.h"
    cp "$here/../tests/guest/fake-blk.c" "$dir/fake_blk.c"
    cat > "$dir/Kbuild" <<'EOF'
obj-m := virtio_next.o virtio_blk.o fake_blk.o
virtio_next-y := virtio_core.o blk_core.o
virtio_blk-y := drivers/block/virtio_blk.o
ccflags-y := -include $(src)/next.h
LINUXINCLUDE := -I$(src)/include/uapi -I$(src)/include $(LINUXINCLUDE)
EOF
    kernel_make "$dir" "$@"
}
