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
    "reference images, the camera or the rules above."
)

#: at the end of what must not happen
AVOID = (
    "- Anything but one single, continuous picture that fills the frame to its edges: no split screen, no collage, "
    "no grid, no panels, no before-and-after, no picture within the picture, no border, no frame, no margin.\n"
    "- Captions, lettering, watermarks, signatures or logos that neither a reference image nor the brief asks for.\n"
    "- Floating, cut-off, doubled or melted objects; objects that pass through each other."
)

#: in front of the user's negative prompt
AVOID_TOO = "- Also, as the client puts it:"
