"""The main job on real data: a float network trained on handwritten digits becomes an int8 one.

Run it with ``octavo demo``. In the order in which the demo uses them, the modules are ``data``,
``model``, ``training``, ``conversion``, ``measure``, ``peer_torch_ao``, ``reload``, ``isas`` and
``report``; ``run`` puts them together. They need the packages of the ``demo`` extra (scikit-learn,
rich, safetensors).
"""
