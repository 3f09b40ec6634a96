.PHONY: demo demo-down test unit mutants lint lock images sandbox sandbox-down test-sandbox

demo:
	KEEP=$(KEEP) hack/demo

demo-down:
	hack/demo down

test:
	hack/test

unit:
	hack/test unit

# Small faults in ovnagent/core/, one after the other: each must be found by a fast test.
mutants:
	hack/test mutants

lint:
	hack/test lint

# Raises every locked version to the newest one that pyproject.toml allows. Needs uv (PyPI).
lock:
	uv pip compile -q --universal --upgrade --generate-hashes --custom-compile-command "make lock" \
	  -o requirements.lock pyproject.toml
	uv pip compile -q --universal --upgrade --generate-hashes --custom-compile-command "make lock" \
	  --extra dev --constraint requirements.lock -o requirements-dev.lock pyproject.toml

images:
	hack/images

sandbox:
	hack/sandbox

sandbox-down:
	hack/sandbox down

test-sandbox:
	hack/sandbox test
