"""Procedural textured vehicles: training data for a fresh clone."""

from get3d_model.data.vehicles.vehicle import VehiclePart, make_vehicle, vehicle_kinds

__all__ = ["VehiclePart", "make_vehicle", "vehicle_kinds"]
