"""A release of an image as an sp-vm build makes it: kernel, firmware, a root file system with its dm-verity tree, the root hash, and the
manifest that names them. The kernel is the test guest's, so an initrd is among the files; the firmware is QEMU's own BIOS."""
import hashlib
import json
import os
import shutil
import subprocess

ROOTFS_SIZE = 8 << 20
FIRMWARE = "/usr/share/seabios/bios-256k.bin"


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_rootfs(path, version):
    """Returns the root hash of its tree, which lies behind the file system."""
    tree = path + ".tree"
    os.makedirs(os.path.join(tree, "etc"))
    with open(os.path.join(tree, "etc", "release"), "w") as f:
        f.write(f"release {version}\n")
    with open(os.path.join(tree, "noise"), "wb") as f:
        f.write(os.urandom(2 << 20))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-L", "rootfs", "-O", "^has_journal", "-d", tree, path, f"{ROOTFS_SIZE >> 20}M"], check=True)
    shutil.rmtree(tree)
    done = subprocess.run(["veritysetup", "format", f"--hash-offset={ROOTFS_SIZE}", path, path], check=True, text=True, capture_output=True)
    return next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("Root hash:"))


def make_release(folder, version, guest, pack=False):
    """`folder`/VERSION with vm.json and the files it names; pack: the image is compressed. Returns the root hash."""
    folder = os.path.join(folder, version)
    os.makedirs(folder)
    image = f"sp-vm-{version}.img"
    root_hash = make_rootfs(os.path.join(folder, image), version)
    if pack:
        subprocess.run(["zstd", "-q", "--rm", image], cwd=folder, check=True)
        image += ".zst"
    for source, name in ((os.path.join(guest, "vmlinuz"), "vmlinuz"), (os.path.join(guest, "initrd.gz"), "initrd.gz"), (FIRMWARE, "OVMF.fd")):
        shutil.copyfile(source, os.path.join(folder, name))
    shutil.copyfile(FIRMWARE, os.path.join(folder, "OVMF_AMD.fd"))
    with open(os.path.join(folder, "rootfs_hash.txt"), "w") as f:
        f.write(root_hash + "\n")
    roles = {"image": image, "bios": "OVMF.fd", "bios_amd": "OVMF_AMD.fd", "rootfs_hash": "rootfs_hash.txt", "kernel": "vmlinuz", "initrd": "initrd.gz"}
    manifest = {role: {"bucket": "builds", "prefix": version, "filename": name, "sha256": sha256(os.path.join(folder, name)),
                       "size": os.path.getsize(os.path.join(folder, name))} for role, name in roles.items()}
    with open(os.path.join(folder, "vm.json"), "w") as f:
        json.dump(manifest, f, indent=2)
    return root_hash
