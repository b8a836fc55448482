"""Video in: from a folder of files to normalised clips.

Reading order: `manifest` (which files, which labels, which split), `decoders` and `reader` (frames out of one video),
`inspection` (what each file turned out to hold, found once), `sampling` (which frames make a clip), `transforms` and
`augment` (pixels), `dataset` (all of it behind one `DataConfig`), `two_scale` (the embedded data set, which draws its
own videos); `formats` and `prepare` make manifests of published data sets.
"""
