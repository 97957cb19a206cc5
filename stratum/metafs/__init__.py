"""The files of a commit by FUSE, from its image: for those whom the kernel does not let mount the image itself."""
