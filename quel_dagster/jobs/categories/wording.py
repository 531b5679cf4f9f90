"""Sentences that every category shares. Plain text: edit freely, nothing here is computed."""

#: above the list of reference images
REFERENCES = (
    "The images above are references, numbered in the order in which they are attached. Take from each one only "
    "what is said here; its framing, its layout and its backdrop are not part of the picture."
)

#: when neither angle nor shot is given
OPEN_CAMERA = "Choose the angle and the framing that tell the brief best, as one clear decision."

#: above the user's own prompt
BRIEF = (
    "What the client asks for, in the client's own words. It decides content, mood and style; it does not undo the "
    "reference images, the camera, the rules above or the list below."
)

#: at the end of what must not happen
AVOID = (
    "- Split screens, collages, grids, panels, before-and-after pairs, a picture within the picture, borders, frames, "
    "margins: it is one single, continuous picture that fills the frame to its edges.\n"
    "- Captions, lettering, watermarks, signatures or logos that neither a reference image nor the brief asks for.\n"
    "- Floating, doubled or melted objects; objects that pass through each other or are cut off by accident."
)

#: in front of the user's negative prompt
AVOID_TOO = "- Also, as the client puts it:"
