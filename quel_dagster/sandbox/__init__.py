"""What stands in for the outside world on one machine: embedded servers, a stand-in Gemini, sample jobs."""
