"""Room: separable image filters. In: an image and a kernel. Out: the image, filtered axis by axis."""
