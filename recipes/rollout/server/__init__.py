"""The rollout server: an engine over HTTP, with the project's own endpoints and OpenAI's."""
