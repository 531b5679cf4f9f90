# One image for every process: `quel up --no-workers` on one machine, `quel worker` on any number.
FROM python:3.13.16-slim
WORKDIR /srv/quel
COPY deploy/requirements.lock pyproject.toml README.md ./
COPY quel_dagster ./quel_dagster
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
      --requirement requirements.lock \
    && pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
    && useradd --create-home --home-dir /var/lib/quel quel \
    && mkdir /objects && chown quel /objects
USER quel
ENV QUEL_HOME=/var/lib/quel
CMD ["quel", "worker"]
