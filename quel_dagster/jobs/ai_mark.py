"""The mark "made by AI" that stored pictures carry: IPTC's digital source type, as XMP.

The EU's AI Act (article 50) asks for a machine-readable mark. IPTC's vocabulary:
https://cv.iptc.org/newscodes/digitalsourcetype/
"""

from typing import Final

DIGITAL_SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

#: the XMP packet of a stored picture; `W5M0…` is the id that XMP's standard gives every packet
XMP: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
).encode()
