"""Video in: from a folder of files to normalised clips.

Reading order: `manifest` (which files, which labels, which split), `reader` (frames out of one file), `inspection`
(what each file turned out to hold, found once), `sampling` (which frames make a clip), `transforms` (pixels),
`dataset` (all of it behind one `DataConfig`), `two_scale` (the embedded data set, which draws its own videos).
"""
