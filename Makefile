.PHONY: demo demo-down test unit lint
demo:
	@KEEP=$(KEEP) hack/demo
demo-down:
	@hack/demo down
test:
	@hack/test
unit:
	@hack/test unit
lint:
	@hack/test lint
