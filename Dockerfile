# Not built or run by the tests: there is no Docker where they run.
#
#   docker build -t chexseg .                           # CPU
#   docker build -t chexseg --build-arg EXTRA=cuda .    # NVIDIA GPU (Pascal, Volta: cuda12); needs the container toolkit
#   docker run --rm -v "$PWD/work:/out/work" chexseg --config=configs/semi.py:p=0.9
#   docker run --rm --gpus all -v /data/cxr:/data:ro -v "$PWD/work:/out/work" chexseg --config=configs/semi.py:p=0.9,root=/data
#
# --user "$(id -u):$(id -g)" makes the results yours.
FROM python:3.12-slim

# Empty for CPU, or an extra of pyproject.toml.
ARG EXTRA=""
WORKDIR /chexseg
COPY . .
RUN pip install --no-cache-dir ".${EXTRA:+[$EXTRA]}" && mkdir -p -m 777 /out/work
ENV HOME=/tmp PYTHONPATH=/chexseg
ENTRYPOINT ["python", "launch.py", "--workdir=/out/work"]
